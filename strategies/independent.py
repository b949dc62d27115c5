"""Independent training: from the initial weights on each experience alone.

The reference for intransigence and forward transfer: what the net learns of an experience when it
knows nothing of the others.
"""

from __future__ import annotations

import copy

from clframe.api import Experience, Net, Strategy, StreamInfo


class Independent(Strategy):
    """Restart at each experience and train on its own data; it has no options.

    With `optim.reset: never` the optimizer's own memory survives the restart; leave it at
    `experience`.
    """

    reference = "independent"

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.initial = copy.deepcopy(net).requires_grad_(False)

    def prepare(self, exp: Experience) -> None:
        self.net.load_state_dict(self.initial.state_dict())
        self.net.grow(exp.classes)
