"""Joint training: from the initial weights on everything so far; what the net could have learned.

Experience k minimises the mean cross-entropy over the union of the data of experiences 1..k, less
what forget requests have withdrawn; a sample that came several times counts once. Every experience
starts from the same weights, so that nothing but the data tells its result from training on that
union alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from clframe.api import Experience, Net, Samples, Strategy, StreamInfo


class Joint(Strategy):
    """Restart at each experience and train on all data seen so far; it has no options.

    A forget request changes the net at the next restart only. With `optim.reset: never` the
    optimizer's own memory survives the restart; leave it at `experience`.
    """

    reference = "joint"

    def __init__(self) -> None:
        super().__init__()
        self.withdrawn: dict[int, list[int]] = {}  # position of a forget request -> its uids

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.initial = copy.deepcopy(net).requires_grad_(False)

    def prepare(self, exp: Experience) -> None:
        seen = torch.nonzero(self.net.opened).flatten().tolist()
        self.net.load_state_dict(self.initial.state_dict())
        self.net.grow([*seen, *exp.classes])

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        return Samples.cat([*(self._retained(e) for e in past), exp.train]).once()

    def forget(self, exp: Experience) -> None:
        self.withdrawn[exp.index] = list(exp.uids)

    def _retained(self, past: Experience) -> Samples:
        """The data of `past` that no later request has withdrawn."""
        gone = [u for at, uids in self.withdrawn.items() if at > past.index for u in uids]
        if not gone:
            return past.train
        keep = ~torch.isin(past.train.uid, torch.tensor(gone, device=past.train.uid.device))
        return Samples(*past.train.take(torch.nonzero(keep).flatten()))

    def get_extra_state(self) -> dict[str, Any]:
        return {"withdrawn": {at: list(uids) for at, uids in self.withdrawn.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.withdrawn = {at: list(uids) for at, uids in state["withdrawn"].items()}
