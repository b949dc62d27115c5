"""A scenario, Avalanche's or with our word on it, becomes a stream of resident tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from clframe.core.experience import Experience, Samples, Scenario, Setting, Stream
from clframe.data.requests import splice
from clframe.data.samples import to_samples
from clframe.errors import ConfigError, PluginError
from clframe.sources import forked_rng

__all__ = ["build_stream", "splice"]


def build_stream(name: str, scenario: Any, *, split: Literal["test", "val"] = "test") -> Stream:
    """The stream of `scenario`: a `Scenario`, or a bare Avalanche benchmark.

    Of a bare benchmark the setting is inferred: "task" from its task labels, "domain" when every
    experience has all classes, else "class". Labels are renumbered where they do not count the
    classes in order of first appearance.
    """
    told = scenario if isinstance(scenario, Scenario) else Scenario(scenario)
    with forked_rng():
        train_sets = _datasets(name, told.benchmark, "train")
        eval_sets = _datasets(name, told.benchmark, split)
        if len(eval_sets) not in (1, len(train_sets)):
            raise PluginError(
                f"scenario {name!r}: {len(train_sets)} experiences in its train stream but "
                f"{len(eval_sets)} in its {split} stream; expected as many, or one for all."
            )
        train, uid = _read(name, "train", train_sets, 0)
        evals, _ = _read(name, split, eval_sets, uid)
    setting = told.setting if told is scenario else _infer(name, train_sets, train)
    if len(evals) < len(train):
        evals = evals * len(train)
    labels = _first_seen([s.y for s in train], [s.y for s in evals])
    experiences = tuple(
        _experience(i, _renumber(t, labels), _renumber(e, labels), setting == "task")
        for i, (t, e) in enumerate(zip(train, evals, strict=True))
    )
    return Stream(
        name=name,
        experiences=experiences,
        num_classes=len(labels),
        setting=setting,
        class_order=_by_label(told.class_order or (), labels) or tuple(labels),
        online=told.online,
        mean=told.mean,
        std=told.std,
        class_names=_by_label(told.class_names, labels),
    )


def _datasets(name: str, benchmark: Any, split: str) -> list[Any]:
    for attribute in {"val": ("val_stream", "valid_stream")}.get(split, (f"{split}_stream",)):
        stream = getattr(benchmark, attribute, None)
        if stream is not None and len(stream):
            return [exp.dataset for exp in stream]
    if split == "val":
        raise ConfigError(
            f"eval.split=val: scenario {name!r} holds nothing out for validation. "
            f"Set options.{name}.val_share=0.1, or eval.split=test."
        )
    raise PluginError(
        f"scenario {name!r} returned {type(benchmark).__name__} without a {split}_stream; expected "
        "an Avalanche benchmark, or a clframe.api.Scenario that holds one."
    )


def _read(name: str, split: str, sets: Sequence[Any], uid: int) -> tuple[list[Samples], int]:
    """The samples of each data set, and the first uid that is free after them."""
    found = []
    for i, dataset in enumerate(sets):
        where = f"scenario {name!r}: experience {i} of its {split} stream"
        found.append(to_samples(dataset, where, uid))
        uid = max(uid, int(found[-1].uid.max()) + 1)
    return found, uid


def _infer(name: str, sets: Sequence[Any], train: Sequence[Samples]) -> Setting:
    """The setting of a bare benchmark."""
    tasks = [sorted(set(getattr(d, "targets_task_labels", None) or [0])) for d in sets]
    if any(t != [0] for t in tasks):
        if tasks != [[i] for i in range(len(tasks))]:
            raise PluginError(
                f"scenario {name!r}: its experiences have the task labels {tasks}; expected "
                "experience i to have task label i, or all of them 0."
            )
        return "task"
    classes = [set(s.y.tolist()) for s in train]
    return "domain" if len(classes) > 1 and all(c == classes[0] for c in classes) else "class"


def _first_seen(*streams: Sequence[Tensor]) -> list[int]:
    """The labels in order of first appearance; those that come together ascend."""
    seen: dict[int, None] = {}
    for stream in streams:
        for y in stream:
            seen.update(dict.fromkeys(y.unique().tolist()))
    return list(seen)


def _renumber(samples: Samples, labels: Sequence[int]) -> Samples:
    if list(labels) == list(range(len(labels))):
        return samples
    old, place = torch.tensor(labels).sort()
    return replace(samples, y=place[torch.searchsorted(old, samples.y)])


def _by_label(column: Sequence[Any], labels: Sequence[int]) -> tuple[Any, ...]:
    """What a scenario says of its own labels, in the order of ours.

    A domain-incremental split names more classes than it has labels: that is left as it is.
    """
    if list(labels) == list(range(len(labels))) or len(column) <= max(labels):
        return tuple(column)
    return tuple(column[label] for label in labels)


def _experience(index: int, train: Samples, evals: Samples, has_task: bool) -> Experience:
    task = index if has_task else 0
    train, evals = (replace(s, task=torch.full_like(s.task, task)) for s in (train, evals))
    classes = tuple(train.y.unique().tolist())
    return Experience(index, "learn", (task,), classes, train, evals, origin=index)
