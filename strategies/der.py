"""Dark experience replay (DER; Buzzega et al., 2020): replay the logits, not the labels.

    L = CE(f(x), y) + alpha mean (f(x') - z')^2
z' are the logits that x' had when it came: of its augmented view, in train mode, before the update
of that step; they are never refreshed. The mean runs over all rows and all C outputs, as in the
authors' code, for which the published alphas hold (the paper writes a squared norm: C times more).
"""

from __future__ import annotations

from torch import Tensor

from clframe.api import (
    Batch,
    ReplayBuffer,
    Strategy,
    check_least,
    cross_entropy,
    global_size,
    mean_squared_error,
)


class Der(Strategy):
    """Reservoir replay of raw samples with the logits they had.

    alpha: weight of the logit term (0.3: the paper's for split CIFAR-10; 0.1 to 1 are usual).
    capacity: samples in memory (500, as in the paper's tables).
    replay_size: samples drawn per step over all ranks; null draws as many as the batch has.

    A fixed head is what the paper has. Outputs that a growing head has not opened count as zero.
    """

    def __init__(
        self, *, alpha: float = 0.3, capacity: int = 500, replay_size: int | None = None
    ) -> None:
        super().__init__()
        check_least(0, alpha=alpha)
        check_least(1, replay_size=replay_size)
        self.alpha, self.replay_size = alpha, replay_size
        self.memory = ReplayBuffer(capacity)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.net(self.augment(batch.x))
        self._recorded = self.net.without_closed(logits.detach())
        terms = {"new": cross_entropy(logits, batch.y)}
        old = self.memory.sample(self.replay_size or global_size(batch.y), batch.x.device)
        if old is not None:
            now = self.net.without_closed(self.net(self.augment(old["x"])))
            terms["distil"] = self.alpha * mean_squared_error(now, old["logits"])
        return terms

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(x=batch.x, y=batch.y, task=batch.task, uid=batch.uid, logits=self._recorded)
