"""Gradient ascent: forget by climbing the loss of what is to be forgotten (a baseline).

    minimise -CE(f(x), y) over batches of the data that a request withdraws
Nothing holds on to the rest, and the loss has no upper bound: few small steps, or the net is gone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clframe.api import (
    Batch,
    ConfigError,
    Experience,
    Strategy,
    Wrapper,
    cross_entropy,
    needs_forget_data,
    needs_plain_net,
)


class Ascent(Wrapper):
    """Any learner; at a forget request, `steps` steps up the loss of the data handed over.

    steps: of each request (20). lr: of plain SGD (0.01), with the run's batch size.
    """

    only_forgets: ClassVar[bool] = True

    def __init__(self, base: Strategy, *, steps: int = 20, lr: float = 0.01) -> None:
        super().__init__(base)
        if steps < 1:
            raise ConfigError(f"steps: {steps} is too few; give 1 or more.")
        if not lr > 0:
            raise ConfigError(f"lr: {lr} is no step; give more than 0.")
        self.steps, self.lr = steps, lr

    def budget(self, exp: Experience) -> int | None:
        if exp.kind == "learn":
            return self.base.budget(exp)
        needs_plain_net(self.base, "ascent")
        needs_forget_data(exp, "ascent")
        return self.steps

    def optimizer(self, exp: Experience) -> torch.optim.Optimizer | None:
        if exp.kind == "learn":
            return self.base.optimizer(exp)
        return torch.optim.SGD(self.trainable(), lr=self.lr)

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        return {"forget": -cross_entropy(self.net(self.augment(batch.x)), batch.y)}
