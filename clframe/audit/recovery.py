"""Learning again what was forgotten: how fast, and from how few images, on copies of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
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

TESTED = 200  # samples that the accuracy after each step is taken on


@dataclass(frozen=True)
class Lesson:
    """How a copy of a model learns again: on what, in which order, and tested on what."""

    cfg: RunConfig
    lost: Forgotten
    by_task: bool

    def curve(self, model: Strategy, steps: int, per_class: int | None = None) -> list[float]:
        """Accuracy on the forgotten test data before and after each step, [steps + 1].

        Plain cross-entropy in eval mode with a fresh optimizer of the run's own kind: nothing holds
        on to anything. `per_class` images of each class, or all of them. Empty for a model that
        does not learn by steps.
        """
        student = copy.deepcopy(model)
        clock.set(self.cfg.seed, self.lost.exp.origin, "prepare")
        student.prepare(self.lost.exp)  # an output that was closed opens
        optimizer = student.optimizer(self.lost.exp)
        if optimizer is None:
            optimizer = build_optimizer(self.cfg.optim, student.trainable())
        student.eval()
        test, train = self.lost.test[0], self._material(per_class)
        if optimizer is None or not self._logits(student, train, torch.arange(1)).requires_grad:
            return []
        found = [self._accuracy(student, test)]
        for rows in self._batches(len(train.samples), steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(self._logits(student, train, rows), labels(train, rows))
            loss.backward()
            optimizer.step()
            found.append(self._accuracy(student, test))
        return found

    def _material(self, per_class: int | None) -> Part:
        part, samples = self.lost.train[0], self.lost.exp.train
        if per_class is not None:
            samples = Samples(*samples.take(first_of_each(samples.y, per_class)))
        return part._replace(samples=samples)

    def _batches(self, num: int, steps: int) -> Sequence[Tensor]:
        """Rows of each step, in an order that is every model's."""
        size, made, epoch = min(self.cfg.batch_size, num), list[Tensor](), 0
        while len(made) < steps:
            g = generator(0, "relearn", self.lost.exp.origin, epoch)
            made += torch.randperm(num, generator=g).split(size)
            epoch += 1
        return made[:steps]

    def _logits(self, model: Strategy, part: Part, rows: Tensor) -> Tensor:
        return logits_of(model, part, rows, by_task=self.by_task)

    @torch.no_grad()
    def _accuracy(self, model: Strategy, test: Part) -> float:
        rows = torch.arange(min(TESTED, len(test.samples)))
        right = self._logits(model, test, rows).argmax(1) == labels(test, rows)
        return right.double().mean().item()


def labels(part: Part, rows: Tensor) -> Tensor:
    """The places of the rows' labels among the classes of the part."""
    return torch.searchsorted(torch.tensor(part.classes), part.samples.y[rows])
