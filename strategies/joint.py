"""Joint training: from the initial weights on everything so far; what the net could have learned.

Experience k minimises the mean cross-entropy over the union of the data of experiences 1..k, less
what forget requests have withdrawn; a sample that came several times counts once. Every experience
starts from the same weights, so that nothing but the data tells its result from training on that
union alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from clframe.api import Experience, Net, Samples, Strategy, StreamInfo


class Joint(Strategy):
    """Restart at each experience and train on all data seen so far; it has no options.

    A forget request changes the net at the next restart only. With `optim.reset: never` the
    optimizer's own memory survives the restart; leave it at `experience`.
    """

    reference = "joint"

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.initial = copy.deepcopy(net).requires_grad_(False)

    def prepare(self, exp: Experience) -> None:
        seen = torch.nonzero(self.net.opened).flatten().tolist()
        self.net.load_state_dict(self.initial.state_dict())
        self.net.grow([*seen, *exp.classes])

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        if exp.kind == "forget":
            return None
        return Samples.cat([*(e.train for e in past), exp.train]).once()
