"""What each experience trains on, and how many updates the stream still has to come."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import torch

from clframe.config.schema import RunConfig
from clframe.core.experience import Experience, Samples, Stream
from clframe.core.strategy import Strategy
from clframe.data.loader import ExperienceLoader, ForgetLoader, num_batches
from clframe.engine.module import Position
from clframe.errors import ConfigError

RESIDENT = 4 * 2**30  # training data up to this many bytes is moved to the GPU once


class Feed:
    """Loaders for the experiences of one stream, each knowing what came before it."""

    def __init__(
        self, cfg: RunConfig, stream: Stream, strategy: Strategy, device: torch.device
    ) -> None:
        self.cfg, self.strategy, self.device = cfg, strategy, device
        self.learned, self.online = stream.learned, stream.online
        self.forgets = [e for e in stream if e.kind == "forget"]
        # by position in the stream: how many experiences to learn lie before it, and the updates
        # from there on
        self.before = [0, *accumulate(e.kind == "learn" for e in stream)]
        lengths = map(self._updates, stream)
        self.ahead = [*accumulate(reversed([*lengths]), initial=0)][::-1]

    def loader(self, exp: Experience, at: Position) -> tuple[ExperienceLoader, int]:
        """The batches of `exp` from `at` on, and its number of epochs."""
        budget, learns = self._budget(exp), exp.kind == "learn"
        asked = learns or bool(budget)
        samples = self.strategy.data(exp, self._past(exp)) if asked else None
        if samples is None:
            samples = exp.train
        elif at.local == 0:
            own = set(exp.train.uid.tolist())
            at.past_samples += sum(u not in own for u in samples.uid.tolist())
        if self.device.type == "cuda" and samples.x.nbytes <= RESIDENT:
            samples = samples.to(self.device)
        where = {"seed": self.cfg.seed, "key": exp.origin, "batch": at.batch}
        if not learns:
            return ForgetLoader(samples, self.cfg.batch_size, budget or 0, **where), 1
        loader = ExperienceLoader(samples, self.cfg.batch_size, epoch=at.epoch, **where)
        return loader, self.cfg.epochs if budget is None else budget

    def _past(self, exp: Experience) -> list[Experience]:
        """What was learned before `exp`, without what requests have withdrawn, its own included."""
        return [self._left(e, exp.index) for e in self.learned[: self.before[exp.index]]]

    def _left(self, past: Experience, upto: int) -> Experience:
        gone = [u for f in self.forgets if past.index < f.index <= upto for u in f.uids]
        if not gone:
            return past
        uid = past.train.uid
        keep = ~torch.isin(uid, torch.tensor(gone, device=uid.device))
        left = Samples(*past.train.take(torch.nonzero(keep).flatten()))
        return replace(past, train=left)

    def _budget(self, exp: Experience) -> int | None:
        budget = self.strategy.budget(exp)
        if self.online and exp.kind == "learn" and (budget or 1) > 1:
            raise ConfigError(
                f"strategy: {self.cfg.strategy!r} asks for {budget} passes over an online stream "
                f"({self.cfg.scenario}); set its options for one, or online=false."
            )
        return budget

    def updates_from(self, position: int) -> int:
        """An estimate for the progress bar: updates of the experiences from `position` on."""
        return self.ahead[position]

    def _updates(self, exp: Experience) -> int:
        budget = self._budget(exp)
        if exp.kind == "forget":
            return budget or 0
        epochs = self.cfg.epochs if budget is None else budget
        return epochs * num_batches(len(exp.train), self.cfg.batch_size) * self.strategy.repeats
