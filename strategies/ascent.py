"""Gradient ascent: forget by climbing the loss of what is to be forgotten (a baseline).

    minimise -mean of CE(f(x), y) [CE < ceiling * ln C] over batches of what a request withdraws
C is the number of classes, ln C the loss of a guess; f is in eval mode. Nothing holds on to the
rest; without the ceiling, which the plain method does not have, the loss has no bound.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from clframe.api import (
    Batch,
    Experience,
    ForgetSteps,
    Strategy,
    check_above,
    evaluating,
    global_size,
    mean_of,
)


class Ascent(ForgetSteps):
    """Any learner; at a forget request, `steps` steps up the loss of the data handed over.

    steps: of each request (20). lr: of plain SGD (0.01), with the run's batch size.
    ceiling: where a sample climbs no further, in units of ln C (2); null is nowhere.
    """

    only_forgets: ClassVar[bool] = True

    def __init__(
        self, base: Strategy, *, steps: int = 20, lr: float = 0.01, ceiling: float | None = 2.0
    ) -> None:
        super().__init__(base, steps, lr)
        check_above(0, ceiling=ceiling)
        self.ceiling = ceiling

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        x = self.augment(batch.x)
        with evaluating(self.net):  # or batch norm would learn what is to be forgotten
            loss = F.cross_entropy(self.net(x), batch.y, reduction="none")
        if self.ceiling is not None:
            loss = loss.where(loss < self.ceiling * math.log(self.info.num_classes), 0.0)
        return {"forget": -mean_of(loss, global_size(batch.y))}
