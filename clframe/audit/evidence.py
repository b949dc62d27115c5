"""What models are asked: the data that was forgotten and the data that was not, and their answers.

Outputs are softmax in float64 over the classes that a model may answer with, in a fixed order: of a
task-incremental stream the task's own, else all classes of the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    def forget_train(self) -> list[Part]:
        return [part for f in self.forgotten for part in f.train]

    @property
    def forget_test(self) -> list[Part]:
        return [part for f in self.forgotten for part in f.test]


def gather(stream: Stream, limit: int) -> Evidence:
    """The evidence about `stream`, at most `limit` samples of each experience and split."""
    by_task = stream.setting == "task"
    every = tuple(sorted({c for e in stream.learned for c in e.classes}))

    def part(exp: Experience, samples: Samples, split: str) -> Part:
        g = generator(0, "audit", exp.origin, split)  # the same samples whatever the seed
        rows = stratified(samples.y, min(limit, len(samples)), g)
        classes = tuple(sorted(exp.classes)) if by_task else every
        return Part(exp.origin, Samples(*samples.take(rows)), classes)

    def held(upto: int) -> dict[int, Samples]:
        return {e.index: _left(stream, e, upto) for e in stream.learned if e.index < upto}

    left = held(len(stream))
    emptied = tuple(c for c in every if c not in _classes(left.values()))
    exps = {e.index: e for e in stream.learned}
    forgotten = []
    for request in (e for e in stream if e.kind == "forget"):
        lost = _lost(stream, request)
        before = {i: s for i, s in held(request.index).items() if i not in lost and len(s)}
        if lost:
            tests = {i: _test_of(exps[i], request, emptied) for i in lost}
            forgotten.append(
                Forgotten(
                    request.index,
                    "U" + ",".join(map(str, sorted({exps[i].origin for i in lost}))),
                    [part(exps[i], s, "train") for i, s in lost.items()],
                    [part(exps[i], s, "test") for i, s in tests.items() if len(s)],
                    [part(exps[i], s, "train") for i, s in before.items()],
                    [part(exps[i], exps[i].eval, "test") for i in before],
                    [replace(exps[i], train=s) for i, s in lost.items()],
                )
            )
    kept = [i for i, s in left.items() if len(s)]
    train = [part(exps[i], left[i], "train") for i in kept]
    test = [part(exps[i], _held_test(exps[i], emptied), "test") for i in kept]
    return Evidence(forgotten, train, test, emptied, by_task)


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


def _test_of(exp: Experience, request: Experience, emptied: Sequence[int]) -> Samples:
    """Test data like what was forgotten: of whole experiences all, of classes theirs.

    Of single samples the rest of their experience, at which a model without them is as good.
    """
    if exp.index in request.forgets:
        return exp.eval
    classes = [c for c in request.emptied if c in emptied]
    return _of_classes(exp.eval, classes, True) if classes else exp.eval


def _held_test(exp: Experience, emptied: Sequence[int]) -> Samples:
    return _of_classes(exp.eval, emptied, False)


def _of_classes(samples: Samples, classes: Sequence[int], keep: bool) -> Samples:
    among = torch.isin(samples.y, torch.tensor(list(classes), dtype=torch.long))
    return Samples(*samples.take(torch.nonzero(among == keep).flatten()))


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


def accuracy(given: Outputs) -> float:
    """The share of samples whose most likely class is their own."""
    return float(np.mean(given.p.argmax(1) == given.y))
