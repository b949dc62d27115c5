"""Gradient ascent: forget by climbing the loss of what is to be forgotten (a baseline).

    minimise -mean of CE(f(x), y) [CE < ceiling * ln C] over batches of what a request withdraws
C is the number of classes, ln C the loss of a guess; f is in eval mode. Nothing holds on to the
rest; without the ceiling, which the plain method does not have, the loss has no bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.api import (
    Batch,
    ConfigError,
    Experience,
    Samples,
    Strategy,
    Wrapper,
    evaluating,
    global_size,
    mean_of,
    needs_forget_data,
    needs_plain_net,
)


class Ascent(Wrapper):
    """Any learner; at a forget request, `steps` steps up the loss of the data handed over.

    steps: of each request (20). lr: of plain SGD (0.01), with the run's batch size.
    ceiling: where a sample climbs no further, in units of ln C (2); null is nowhere.
    """

    only_forgets: ClassVar[bool] = True

    def __init__(
        self, base: Strategy, *, steps: int = 20, lr: float = 0.01, ceiling: float | None = 2.0
    ) -> None:
        super().__init__(base)
        if steps < 1:
            raise ConfigError(f"steps: {steps} is too few; give 1 or more.")
        if not lr > 0:
            raise ConfigError(f"lr: {lr} is no step; give more than 0.")
        if ceiling is not None and not ceiling > 0:
            raise ConfigError(f"ceiling: {ceiling} is no loss; give more than 0, or null.")
        self.steps, self.lr, self.ceiling = steps, lr, ceiling

    def budget(self, exp: Experience) -> int | None:
        if exp.kind == "learn":
            return self.base.budget(exp)
        needs_plain_net(self.base, exp, "ascent")
        needs_forget_data(exp, "ascent")
        return self.steps

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        return self.base.data(exp, past) if exp.kind == "learn" else exp.train

    def optimizer(self, exp: Experience) -> torch.optim.Optimizer | None:
        if exp.kind == "learn":
            return self.base.optimizer(exp)
        return torch.optim.SGD(self.trainable(), lr=self.lr)

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        x = self.augment(batch.x)
        with evaluating(self.net):  # or batch norm would learn what is to be forgotten
            loss = F.cross_entropy(self.net(x), batch.y, reduction="none")
        if self.ceiling is not None:
            loss = loss.where(loss < self.ceiling * math.log(self.info.num_classes), 0.0)
        return {"forget": -mean_of(loss, global_size(batch.y))}
