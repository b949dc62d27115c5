"""What ways to forget share that go around any learner and change its network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from clframe.core.experience import Experience, Samples
from clframe.core.options import check_above, check_least
from clframe.core.strategy import Strategy, Wrapper, must_have
from clframe.errors import ConfigError


class ForgetSteps(Wrapper):
    """Learns as `base` does; a forget request is `steps` steps of plain SGD on what it withdraws.

    A subclass gives `forget_loss` (else PluginError), and says `only_forgets = True` itself, as a
    literal.
    """

    def __init__(self, base: Strategy, steps: int, lr: float) -> None:
        super().__init__(base)
        must_have(type(self), "forget_loss")
        check_least(1, steps=steps)
        check_above(0, lr=lr)
        self.steps, self.lr = steps, lr

    def budget(self, exp: Experience) -> int | None:
        if exp.kind == "learn":
            return self.base.budget(exp)
        needs_plain_net(self, exp)
        needs_forget_data(self, exp)
        return self.steps

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        return self.base.data(exp, past) if exp.kind == "learn" else exp.train

    def optimizer(self, exp: Experience) -> Optimizer | None:
        if exp.kind == "learn":
            return self.base.optimizer(exp)
        return torch.optim.SGD(self.trainable(), lr=self.lr)


def needs_plain_net(wrapper: Wrapper, exp: Experience) -> None:
    """Raise ConfigError where it cannot answer request `exp` by changing the net of its base."""
    name, inner = (type(s).__name__.lower() for s in (wrapper, wrapper.base))
    if not wrapper.base.predicts_plainly():
        raise ConfigError(
            f"strategy: {name} changes the network itself, and {inner} predicts by more than a "
            f"forward of it; put {name} around another strategy."
        )
    if wrapper.base.budget(exp):
        raise ConfigError(
            f"strategy: {name} and {inner} would both take a forget request's steps; leave one."
        )


def needs_forget_data(strategy: Strategy, exp: Experience) -> None:
    """Raise ConfigError where a forget request does not hand over what it withdraws."""
    if not len(exp.train):
        raise ConfigError(
            f"requests[{exp.index}]: {type(strategy).__name__.lower()} reads what it is to forget, "
            "and the request does not hand it over; set forget_data=true, or data: true in the "
            "request."
        )
