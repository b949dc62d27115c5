"""Learning again what was forgotten: how fast, and from how few images, on copies of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.audit.evidence import Forgotten, Part, logits_of
from clframe.config.schema import RunConfig
from clframe.core.experience import Samples
from clframe.core.memory import first_of_each
from clframe.core.rng import clock, generator
from clframe.core.strategy import Strategy
from clframe.engine.optim import build_optimizer

TESTED = 200  # samples of each experience that the accuracy after each step is taken on


@dataclass(frozen=True)
class Lesson:
    """How a copy of a model learns again: on what, in which order, and tested on what."""

    cfg: RunConfig
    lost: Forgotten
    by_task: bool

    def curve(self, model: Strategy, steps: int) -> list[float]:
        """Accuracy on the forgotten test data before and after each step, [steps + 1].

        Plain cross-entropy in eval mode with a fresh optimizer of the run's own kind: nothing holds
        on to anything. Empty for a model that does not learn by steps, or begins anew when it does.
        """
        student, learn = self._begin(model, None)
        if learn is None:
            return []
        return [self.accuracy(student), *(self.accuracy(student) for _ in learn(steps))]

    def after(self, model: Strategy, steps: int, per_class: int) -> float | None:
        """Accuracy after as many steps on `per_class` images of each class; None as of `curve`."""
        student, learn = self._begin(model, per_class)
        if learn is None:
            return None
        for _ in learn(steps):
            continue
        return self.accuracy(student)

    def accuracy(self, model: Strategy) -> float:
        """The share of the first test samples of each experience that `model` knows."""
        right = []
        with torch.no_grad():
            for part in self.lost.test:
                rows = torch.arange(min(TESTED, len(part.samples)))
                guess = logits_of(model, part, rows, by_task=self.by_task).argmax(1)
                right.append(guess == labels(part, rows))
        return torch.cat(right).double().mean().item()

    def _begin(
        self, model: Strategy, per_class: int | None
    ) -> tuple[Strategy, Callable[[int], Iterator[None]] | None]:
        """A copy that is ready to learn, and what makes its steps."""
        if model.reference is not None or not self.lost.test:
            return model, None
        student = copy.deepcopy(model)
        for exp in self.lost.exps:  # outputs that were closed open
            clock.set(self.cfg.seed, exp.origin, "prepare")
            student.prepare(exp)
        optimizer = student.optimizer(self.lost.exps[0])
        if optimizer is None:
            optimizer = build_optimizer(self.cfg.optim, student.trainable())
        student.eval()
        parts = [self._material(i, per_class) for i in range(len(self.lost.train))]
        first = logits_of(student, parts[0], torch.arange(1), by_task=self.by_task)
        if optimizer is None or not first.requires_grad:
            return student, None

        def learn(steps: int) -> Iterator[None]:
            for rows in self._batches(sum(len(p.samples) for p in parts), steps):
                optimizer.zero_grad()
                self._loss(student, parts, rows).backward()
                optimizer.step()
                yield

        return student, learn

    def _material(self, i: int, per_class: int | None) -> Part:
        samples = self.lost.exps[i].train
        if per_class is not None:
            samples = Samples(*samples.take(first_of_each(samples.y, per_class)))
        return self.lost.train[i]._replace(samples=samples)

    def _loss(self, model: Strategy, parts: Sequence[Part], rows: Tensor) -> Tensor:
        """Mean cross-entropy of `rows`, counted through all parts."""
        losses, start = [], 0
        for part in parts:
            own = rows[(rows >= start) & (rows < start + len(part.samples))] - start
            start += len(part.samples)
            if len(own):
                logits = logits_of(model, part, own, by_task=self.by_task)
                losses.append(F.cross_entropy(logits, labels(part, own), reduction="none"))
        return torch.cat(losses).mean()

    def _batches(self, num: int, steps: int) -> Sequence[Tensor]:
        """Rows of each step, in an order that is every model's."""
        size, made, epoch = min(self.cfg.batch_size, num), list[Tensor](), 0
        while len(made) < steps:
            g = generator(0, "relearn", self.lost.exps[0].origin, epoch)
            made += torch.randperm(num, generator=g).split(size)
            epoch += 1
        return made[:steps]


def labels(part: Part, rows: Tensor) -> Tensor:
    """The places of the rows' labels among the classes of the part."""
    return torch.searchsorted(torch.tensor(part.classes), part.samples.y[rows])
