"""DER++ (Buzzega et al., 2020): dark experience replay, and label replay of a second draw.

    L = CE(f(x), y) + alpha mean (f(x') - z')^2 + beta CE(f(x''), y'')
x' and x'' are two independent draws. z' are the logits that x' had when it came: of its augmented
view, in train mode, before the update of that step; they are never refreshed. The squared error is
a mean over all rows and all C outputs, as in the authors' code, which the published alphas fit.
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


class Derpp(Strategy):
    """Reservoir replay of raw samples with the logits they had and with their labels.

    alpha: weight of the logit term (0.1: the paper's for split CIFAR-10; 0.1 to 1 are usual).
    beta: weight of the label term (0.5, likewise; 0.5 to 1 are usual).
    capacity: samples in memory (500, as in the paper's tables).
    replay_size: samples in each draw over all ranks; null draws as many as the batch has.

    A fixed head is what the paper has. Outputs that a growing head has not opened count as zero.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        capacity: int = 500,
        replay_size: int | None = None,
    ) -> None:
        super().__init__()
        check_least(0, alpha=alpha, beta=beta)
        check_least(1, replay_size=replay_size)
        self.alpha, self.beta, self.replay_size = alpha, beta, replay_size
        self.memory = ReplayBuffer(capacity)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.net(self.augment(batch.x))
        self._recorded = self.net.without_closed(logits.detach())
        terms = {"new": cross_entropy(logits, batch.y)}
        size = self.replay_size or global_size(batch.y)
        first = self.memory.sample(size, batch.x.device)
        second = self.memory.sample(size, batch.x.device)
        if first is not None and second is not None:
            now = self.net.without_closed(self.net(self.augment(first["x"])))
            terms["distil"] = self.alpha * mean_squared_error(now, first["logits"])
            again = self.net(self.augment(second["x"]))
            terms["replay"] = self.beta * cross_entropy(again, second["y"])
        return terms

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(x=batch.x, y=batch.y, task=batch.task, uid=batch.uid, logits=self._recorded)
