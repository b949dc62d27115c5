"""Discarding outputs: forget a class by taking its row of the head away (a baseline).

The row becomes zero and the class's logit is closed, until the class comes again. The backbone
keeps all it has learned, so what this leaves in the features is what other methods must beat.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from clframe.api import ConfigError, Experience, Strategy, Wrapper, needs_plain_net


class Discard(Wrapper):
    """Any learner; at a forget request, the outputs of classes of which nothing is left are closed.

    It has no options and reads no data. A request that empties no class cannot be answered this
    way: where tasks share their classes there is no output of a task's own.
    """

    only_forgets: ClassVar[bool] = True

    def __init__(self, base: Strategy) -> None:
        super().__init__(base)

    def budget(self, exp: Experience) -> int | None:
        if exp.kind == "learn":
            return self.base.budget(exp)
        needs_plain_net(self, exp)
        if not exp.emptied:
            raise ConfigError(
                f"requests[{exp.index}]: no class loses all its samples, so there is no output to "
                "discard; forget whole classes, or use another way to forget."
            )
        return None

    def forget(self, exp: Experience) -> bool | None:
        self.base.forget(exp)
        head, rows = self.net.head, list(exp.emptied)
        with torch.no_grad():
            cast(Tensor, head.weight)[rows] = 0.0
            if isinstance(head, torch.nn.Linear):
                head.bias[rows] = 0.0
        self.net.growing = True  # from now on, a row is drawn anew when its class comes
        self.net.opened[rows] = False
        return True

    def get_extra_state(self) -> dict[str, Any]:
        return {"growing": self.net.growing}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.net.growing = state["growing"]
