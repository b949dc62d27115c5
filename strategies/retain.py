"""Fine-tuning on what is retained: forget by learning the rest once more (a baseline).

    minimise CE(f(x), y) over batches of all earlier data that no request has withdrawn
It reads that data in full (the record says how much) and never what is to be forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from clframe.api import (
    Batch,
    Experience,
    Samples,
    Strategy,
    Wrapper,
    check_least,
    cross_entropy,
    needs_plain_net,
)


class Retain(Wrapper):
    """Any learner; at a forget request, `steps` steps of its optimizer on all retained data.

    steps: of each request (100), with the run's batch size.
    """

    only_forgets: ClassVar[bool] = True

    def __init__(self, base: Strategy, *, steps: int = 100) -> None:
        super().__init__(base)
        check_least(1, steps=steps)
        self.steps = steps

    def budget(self, exp: Experience) -> int | None:
        if exp.kind == "learn":
            return self.base.budget(exp)
        needs_plain_net(self, exp)
        return self.steps

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        if exp.kind == "learn":
            return self.base.data(exp, past)
        left = [e.train for e in past if len(e.train)]
        return Samples.cat(left).once() if left else past[0].train

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        return {"retain": cross_entropy(self.net(self.augment(batch.x)), batch.y)}
