"""Random labels: forget by learning wrong labels of what is to be forgotten (a baseline).

    minimise CE(f(x), r(x)) over batches of the data that a request withdraws
r(x) is drawn once a sample and request, evenly among the classes that are held and not its own; of
a task-incremental stream, among those of the request's tasks. f is in eval mode.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clframe.api import (
    Batch,
    Experience,
    ForgetSteps,
    Net,
    Strategy,
    StreamInfo,
    cross_entropy,
    evaluating,
    generator,
    shared_rng,
)


class Relabel(ForgetSteps):
    """Any learner; at a forget request, `steps` steps on the data handed over, wrongly labelled.

    steps: of each request (50). lr: of plain SGD (0.05), with the run's batch size.
    """

    only_forgets: ClassVar[bool] = True
    seen: Tensor
    salt: Tensor

    def __init__(self, base: Strategy, *, steps: int = 50, lr: float = 0.05) -> None:
        super().__init__(base, steps, lr)

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.register_buffer("seen", torch.zeros(info.num_classes, dtype=torch.bool))
        self.register_buffer("salt", torch.randint(2**62, (), generator=shared_rng("relabel")))

    def begin(self, exp: Experience) -> None:
        super().begin(exp)
        self.seen[list(exp.classes)] = True

    def forget(self, exp: Experience) -> bool | None:
        self.seen[list(exp.emptied)] = False
        return self.base.forget(exp)

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        x, y = self.augment(batch.x), self.wrong(exp, batch.uid.cpu()).to(batch.y.device)
        with evaluating(self.net):  # or batch norm would learn what is to be forgotten
            return {"forget": cross_entropy(self.net(x), y)}

    def wrong(self, exp: Experience, uid: Tensor) -> Tensor:
        """The label that each sample of the request ([n] int64) is taught, [n] int64."""
        every, order = exp.train.uid.cpu().sort()
        truth = exp.train.y.cpu()[order]
        allowed = self.seen.cpu()
        if self.info.setting == "task":
            allowed = torch.zeros_like(allowed)
            allowed[list(exp.classes)] = True
        others = allowed.repeat(len(every), 1)
        others[torch.arange(len(every)), truth] = False
        others[~others.any(1)] = True  # nothing else is held: any label
        g = generator(int(self.salt), "relabel", exp.origin)
        labels = torch.multinomial(others.double(), 1, generator=g).flatten()
        return labels[torch.searchsorted(every, uid)]
