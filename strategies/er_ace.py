"""ER-ACE (Caccia et al., 2022): replay whose incoming loss cannot push old classes down.

    L = CE(f(x) over kept classes, y) + CE(f(x') over all classes, y')
The kept classes of `clean` are those present in the batch and those not seen yet, so that future
outputs stay negatives. The published code keeps the present ones and every class >= the highest
one seen (`reference`): the same set, plus that highest seen class even when it is absent; it also
assumes that classes arrive in index order. `present` keeps nothing but the batch's own classes.

Mask and replay act from the second experience on; a task-free run, which knows no experiences,
starts with the first step whose memory is not empty. The published online runs: net.head=cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clframe.api import (
    Batch,
    Experience,
    Net,
    ReplayBuffer,
    Strategy,
    StreamInfo,
    check_choice,
    check_least,
    cross_entropy,
    gather,
    keep_classes,
)


class ErAce(Strategy):
    """Replay with asymmetric cross-entropy, on a reservoir memory of raw samples.

    capacity: samples in memory (500, as in the DER paper's tables).
    replay_size: samples drawn per step over all ranks; null draws as many as the batch has.
    mask: "clean", "reference" (the published code, letter by letter) or "present".
    task_free: ignore the boundaries between experiences.
    """

    seen: Tensor

    def __init__(
        self,
        *,
        capacity: int = 500,
        replay_size: int | None = None,
        mask: str = "clean",
        task_free: bool = False,
    ) -> None:
        super().__init__()
        check_choice(("clean", "reference", "present"), mask=mask)
        check_least(1, replay_size=replay_size)
        self.replay_size, self.mask, self.task_free = replay_size, mask, task_free
        self.memory = ReplayBuffer(capacity)

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.register_buffer("seen", torch.zeros(info.num_classes, dtype=torch.bool))

    def prepare(self, exp: Experience) -> None:
        super().prepare(exp)
        self.later = exp.index > 0

    def kept(self, labels: Tensor) -> Tensor:
        """Classes that take part in the loss of a global batch with `labels`, [C] bool."""
        present = torch.zeros_like(self.seen)
        present[labels] = True
        self.seen |= present
        if self.mask == "clean":
            return present | ~self.seen
        if self.mask == "reference":
            classes = torch.arange(len(present), device=present.device)
            return present | (classes >= (classes * self.seen).max())
        return present

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        labels = gather(batch.y)
        kept = self.kept(labels)
        logits = self.net(self.augment(batch.x))
        if not (len(self.memory) if self.task_free else self.later):
            return {"new": cross_entropy(logits, batch.y)}
        terms = {"new": cross_entropy(keep_classes(logits, kept), batch.y)}
        old = self.memory.sample(self.replay_size or len(labels), batch.x.device)
        if old is not None:
            terms["replay"] = cross_entropy(self.net(self.augment(old["x"])), old["y"])
        return terms

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(x=batch.x, y=batch.y, task=batch.task, uid=batch.uid)
