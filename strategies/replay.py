"""Experience replay (ER; Chaudhry et al., 2019): learn from the batch and a draw of the memory.

With batch (x, y) of B rows and memory draw (x', y') of m rows:
    concat:  L = [sum CE(f(x), y) + sum CE(f(x'), y')] / (B + m)      one forward of [x; x']
    sum:     L = mean CE(f(x), y) + beta mean CE(f(x'), y')           two forwards
`sum` with B = m has about twice the gradient of `concat`, and batch norm sees each half alone:
learning rates do not carry over, and results differ by points. Say which one was run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clframe.api import (
    Batch,
    ReplayBuffer,
    Strategy,
    check_choice,
    check_least,
    cross_entropy,
    global_size,
)


class Replay(Strategy):
    """Reservoir replay of raw samples, augmented afresh at every draw.

    capacity: samples in memory (500, as in the DER paper's tables).
    replay_size: samples drawn per step over all ranks; null draws as many as the batch has.
    variant: "concat" (as current Mammoth) or "sum" (as older code and the online literature).
    beta: weight of the replay term, for `sum` only.
    policy: "reservoir" (uniform over everything seen) or "class_balanced".
    """

    def __init__(
        self,
        *,
        capacity: int = 500,
        replay_size: int | None = None,
        variant: str = "concat",
        beta: float = 1.0,
        policy: str = "reservoir",
    ) -> None:
        super().__init__()
        check_choice(("concat", "sum"), variant=variant)
        check_least(1, replay_size=replay_size)
        check_least(0, beta=beta)
        self.replay_size, self.variant, self.beta = replay_size, variant, beta
        self.memory = ReplayBuffer(capacity, policy=policy)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        incoming = global_size(batch.y)
        drawn = min(self.replay_size or incoming, len(self.memory))
        x = self.augment(batch.x)
        old = self.memory.sample(drawn, batch.x.device)
        if old is None:
            return {"new": cross_entropy(self.net(x), batch.y)}
        old_x = self.augment(old["x"])
        if self.variant == "sum":
            new = cross_entropy(self.net(x), batch.y)
            return {"new": new, "replay": self.beta * cross_entropy(self.net(old_x), old["y"])}
        logits, old_logits = self.net(torch.cat([x, old_x])).split([len(x), len(old_x)])
        share = incoming / (incoming + drawn)  # the global mean of each part, by its global count
        return {
            "new": share * cross_entropy(logits, batch.y),
            "replay": (1 - share) * cross_entropy(old_logits, old["y"]),
        }

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(x=batch.x, y=batch.y, task=batch.task, uid=batch.uid)
