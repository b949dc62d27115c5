"""Learning without forgetting (LwF; Li and Hoiem, 2016): old outputs as targets on new data.

    L = CE(f(x), y) + alpha H_T(f_old(x), f(x))
    H_T(v', v) = - sum over old classes of softmax(v'/T) log softmax(v/T)
f_old is the net as it was before this experience; both see the same view of x. One softmax spans
all classes seen before this experience, and as in the paper there is no factor T^2. The paper's
warm-up, training new outputs alone first, is left out, as in most class-incremental code.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clframe.api import (
    Batch,
    Experience,
    Net,
    Strategy,
    StreamInfo,
    check_above,
    check_least,
    cross_entropy,
    distillation,
    evaluating,
    keep_classes,
)


class Lwf(Strategy):
    """Distillation from the frozen previous net on the incoming data; no memory of samples.

    alpha: weight of the distillation term (the paper's lambda_o, 1).
    temperature: softening of both outputs (the paper's T, 2).
    """

    seen: Tensor

    def __init__(self, *, alpha: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        check_least(0, alpha=alpha)
        check_above(0, temperature=temperature)
        self.alpha, self.temperature = alpha, temperature
        self.teacher: Net | None = None

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.register_buffer("seen", torch.zeros(info.num_classes, dtype=torch.bool))

    def prepare(self, exp: Experience) -> None:
        if exp.index > 0:  # on resume this makes the place into which the teacher's state loads
            self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        super().prepare(exp)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x = self.augment(batch.x)
        logits = self.net(x)
        terms = {"new": cross_entropy(logits, batch.y)}
        if self.teacher is not None:
            with torch.no_grad(), evaluating(self.teacher):
                target = keep_classes(self.teacher(x), self.seen)
            old = distillation(keep_classes(logits, self.seen), target, self.temperature)
            terms["distil"] = self.alpha / self.temperature**2 * old
        return terms

    def end(self, exp: Experience) -> None:
        self.seen[list(exp.classes)] = True
