"""Replay with something broken that only several ranks can show; every test here must notice."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch

from clframe.api import Batch, ReplayBuffer, Strategy, cross_entropy
from clframe.core import dist
from clframe.data.loader import ExperienceLoader
from clframe.registry import find

Replay: Any = find("strategy", "replay").load()
MARK = "CLFRAME_TEST_MARK"  # a file that says that it has happened


class Unreduced(Replay):
    """A mean is over the rank's own rows, whatever the others have."""

    def begin(self, exp: object) -> None:
        def mean(values: torch.Tensor, of: object = None) -> torch.Tensor:
            return values.mean()

        cross_entropy.__globals__["dist"] = _With(dist, mean=mean)


class PerRankDraw(Replay):
    """Each rank draws rows of its own from the memory."""

    def begin(self, exp: object) -> None:
        part = dist.part

        def shifted(n: int) -> slice:
            share = part(n)
            size = share.stop - share.start
            return slice(0, size)  # every rank takes the first rows

        ReplayBuffer.sample.__globals__["dist"] = _With(dist, part=shifted)


class Padded(Replay):
    """The last, shorter share of a batch is filled up with rows of its beginning."""

    def begin(self, exp: object) -> None:
        def part(n: int) -> torch.Tensor:
            each = -(-n // dist.world())
            return (torch.arange(each) + each * dist.rank()) % n

        ExperienceLoader._block.__globals__["dist"] = _With(dist, part=part)


class Drifting(Strategy):
    """Weights change on one rank alone."""

    def after_step(self, batch: Batch) -> None:
        if dist.rank():
            with torch.no_grad():
                next(self.net.parameters()).add_(1e-7)


class Once(Replay):
    """Something happens to one rank at its 12th update, the first time."""

    victim = 1

    def happen(self) -> None:
        """Nothing yet."""

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.updates = getattr(self, "updates", 0) + 1
        mark = os.environ[MARK]
        if dist.rank() == self.victim and self.updates == 12 and not os.path.exists(mark):
            open(mark, "w").close()
            self.happen()
        terms: dict[str, torch.Tensor] = super().loss(batch)
        return terms


class Killed(Once):
    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Once):
    def happen(self) -> None:
        raise RuntimeError("only here")


class Stuck(Once):
    def happen(self) -> None:
        time.sleep(60)


class Leaving(Once):
    def happen(self) -> None:
        os._exit(7)


class OtherTerms(Strategy):
    """Calls its loss by another name on one rank."""

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        (term,) = super().loss(batch).values()
        return {"other" if dist.rank() else "new": term}


class KilledFirst(Killed):
    victim = 0


class _With:
    """A module with one name replaced."""

    def __init__(self, module: object, **names: object) -> None:
        self.__dict__.update(vars(module) | names)
