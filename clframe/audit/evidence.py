"""What models are asked: the data that was forgotten and the data that was not, and their answers.

Outputs are softmax in float64 over the classes that a model may answer with, in a fixed order: of a
task-incremental stream the task's own, else all classes of the stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clframe.audit.attacks import Outputs
from clframe.core.experience import Experience, Samples, Stream
from clframe.core.rng import generator
from clframe.core.strategy import Strategy
from clframe.evaluation.bank import stratified
from clframe.evaluation.order import names

CHUNK = 500


class Part(NamedTuple):
    """Samples of one experience of the scenario, and the classes that an answer may be."""

    origin: int
    samples: Samples
    classes: tuple[int, ...]


class Forgotten(NamedTuple):
    """What one request took away for good: training and test data, and the request's place.

    `held_train`, `held_test`: what was held beside it just before.
    """

    position: int
    name: str
    train: list[Part]
    test: list[Part]
    held_train: list[Part]
    held_test: list[Part]
    exps: list[Experience]  # those that had brought it, with nothing else, to learn it again


@dataclass(frozen=True)
class Evidence:
    """Everything an audit of one stream asks. `emptied`: classes of which nothing is held."""

    forgotten: list[Forgotten]
    retain_train: list[Part]
    retain_test: list[Part]
    emptied: tuple[int, ...]
    by_task: bool

    @property
    def width(self) -> int:
        """The most classes that any answer has."""
        parts = (*self.forget_train, *self.retain_train)
        return max(len(part.classes) for part in parts)

    @property
    def tests(self) -> dict[str, list[Part]]:
        """What was forgotten and what was not, of the test data."""
        return {"forget_test": self.forget_test, "retain_test": self.retain_test}

    @property
    def forget_train(self) -> list[Part]:
        return _merged(part for f in self.forgotten for part in f.train)

    @property
    def forget_test(self) -> list[Part]:
        return _merged(part for f in self.forgotten for part in f.test)


def _merged(parts: Iterable[Part]) -> list[Part]:
    """One part an experience of the scenario, in which each sample is once."""
    found: dict[int, Part] = {}
    for part in parts:
        if part.origin in found:
            known = set(found[part.origin].samples.uid.tolist())
            both = [found[part.origin].samples, _rows(part.samples, known, keep=False)]
            part = part._replace(samples=Samples.cat(both))
        found[part.origin] = part
    return list(found.values())


def gather(stream: Stream, limit: int) -> Evidence:
    """The evidence about `stream`, at most `limit` samples of each experience and split."""
    found = _Collection(stream, limit)
    left = found.held(len(stream))
    return Evidence(
        [found.forgotten(request) for request in stream if found.lost.get(request.index)],
        [found.part(i, s, "train") for i, s in left.items()],
        [found.part(i, found.held_test(i, s), "test") for i, s in left.items()],
        tuple(c for c in found.classes if c not in _classes(left.values())),
        found.by_task,
    )


class _Collection:
    """What a stream's requests took and left, by stream positions; evidence is made of it."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self.stream, self.limit, self.by_task = stream, limit, stream.setting == "task"
        self.exps, self.names = {e.index: e for e in stream.learned}, names(stream.order())
        self.classes = tuple(sorted({c for e in stream.learned for c in e.classes}))
        self.lost = {r.index: _lost(stream, r) for r in stream if r.kind == "forget"}
        self.gone = {
            (r, i): _classes([s]) - _classes([_left(stream, self.exps[i], r + 1)])
            for r, lost in self.lost.items()
            for i, s in lost.items()
        }
        self.thinned = {i for (_, i), classes in self.gone.items() if not classes}

    def held(self, upto: int) -> dict[int, Samples]:
        """The training data that is held before position `upto`."""
        rows = {i: _left(self.stream, e, upto) for i, e in self.exps.items() if i < upto}
        return {i: s for i, s in rows.items() if len(s)}

    def part(self, i: int, samples: Samples, split: str) -> Part:
        exp = self.exps[i]
        g = generator(0, "audit", exp.origin, split)  # the same samples whatever the seed
        rows = stratified(samples.y, min(self.limit, len(samples)), g)
        classes = tuple(sorted(exp.classes)) if self.by_task else self.classes
        return Part(exp.origin, Samples(*samples.take(rows)), classes)

    def forgotten(self, request: Experience) -> Forgotten:
        lost, before = self.lost[request.index], self.held(request.index + 1)
        tests = {i: self.lost_test(request, i) for i in lost}
        return Forgotten(
            request.index,
            self.names[request.index],
            [self.part(i, s, "train") for i, s in lost.items()],
            [self.part(i, s, "test") for i, s in tests.items() if len(s)],
            [self.part(i, s, "train") for i, s in before.items()],
            [self.part(i, self.held_test(i, s), "test") for i, s in before.items()],
            [replace(self.exps[i], train=s) for i, s in lost.items()],
        )

    def lost_test(self, request: Experience, i: int) -> Samples:
        """Test data like what was forgotten: of its classes, or of single samples the first half.

        At that a model that never had them is as good.
        """
        classes = self.gone[request.index, i]
        return _of_classes(self.exps[i].eval, classes) if classes else _half(self.exps[i], 0)

    def held_test(self, i: int, train: Samples) -> Samples:
        """Test data of the classes that are held, and none that stands for single samples."""
        whole = _half(self.exps[i], 1) if i in self.thinned else self.exps[i].eval
        return _of_classes(whole, _classes([train]))


def _left(stream: Stream, exp: Experience, upto: int) -> Samples:
    """The training data of `exp` that no request before position `upto` has withdrawn."""
    later = (f for f in stream if f.kind == "forget" and exp.index < f.index < upto)
    return _rows(exp.train, {u for f in later for u in f.uids}, keep=False)


def _lost(stream: Stream, request: Experience) -> dict[int, Samples]:
    """What a request took for good, by the position that it came with last, each sample once."""
    again = {u for e in stream.learned if e.index > request.index for u in e.train.uid.tolist()}
    left = set(request.uids) - again
    found = {}
    for exp in reversed([e for e in stream.learned if e.index < request.index]):
        rows = _rows(exp.train, left, keep=True)
        if len(rows):
            found[exp.index] = rows
            left -= set(rows.uid.tolist())
    return dict(sorted(found.items()))


def _classes(held: Iterable[Samples]) -> set[int]:
    return {c for samples in held for c in samples.y.unique().tolist()}


def _rows(samples: Samples, uids: set[int], *, keep: bool) -> Samples:
    among = torch.isin(samples.uid, torch.tensor(sorted(uids), dtype=torch.long))
    return Samples(*samples.take(torch.nonzero(among == keep).flatten()))


def _of_classes(samples: Samples, classes: Iterable[int]) -> Samples:
    among = torch.isin(samples.y, torch.tensor(sorted(classes), dtype=torch.long))
    return Samples(*samples.take(torch.nonzero(among).flatten()))


def _half(exp: Experience, which: int) -> Samples:
    """One of two halves of its test data, the same whatever the seed."""
    order = torch.randperm(len(exp.eval), generator=generator(0, "audit", exp.origin, "halves"))
    return Samples(*exp.eval.take(order[which::2].sort().values))


def logits_of(model: Strategy, part: Part, rows: Tensor, *, by_task: bool) -> Tensor:
    """What `model` answers to `rows` of `part`, [n, classes of the part]."""
    batch = part.samples.take(rows)
    (readout, *_) = model.readouts().values()
    x = batch.x.to(torch.get_default_dtype()) if batch.x.is_floating_point() else batch.x
    return readout(x, batch.task if by_task else None)[:, list(part.classes)]


@torch.no_grad()
def answers(model: Strategy, parts: Iterable[Part], evidence: Evidence) -> Outputs:
    """Softmax outputs p [n, K] over the classes of each part, labels and origins of the rows."""
    by_task, width = evidence.by_task, evidence.width
    p, y, task = [], [], []
    for part in parts:
        rows = torch.arange(len(part.samples)).split(CHUNK)
        logits = [logits_of(model, part, r, by_task=by_task).double() for r in rows]
        p.append(torch.softmax(torch.cat(logits), 1).numpy())
        y.append(np.searchsorted(part.classes, part.samples.y.numpy()))
        task.append(np.full(len(part.samples), part.origin))
    return Outputs(
        np.concatenate([np.pad(q, ((0, 0), (0, width - q.shape[1]))) for q in p]),
        np.concatenate(y),
        np.concatenate(task),
    )


@torch.no_grad()
def features(model: Strategy, parts: Iterable[Part]) -> np.ndarray | None:
    """The backbone's output [n, d], or None where predictions do not come from one backbone."""
    if not (model.predicts_plainly() or model.net.frozen):
        return None
    found = [
        model.net.features(chunk).flatten(1).double()
        for part in parts
        for chunk in part.samples.x.split(CHUNK)
    ]
    return torch.cat(found).numpy() if found else None


def accuracies(given: Outputs) -> dict[int, float]:
    """The share of samples whose most likely class is their own, by the scenario's experiences."""
    right = given.p.argmax(1) == given.y
    return {int(k): float(right[given.task == k].mean()) for k in np.unique(given.task)}
