"""What a stream is made of: samples, batches, experiences and the order they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Setting = Literal["class", "task", "domain"]


class Batch(NamedTuple):
    """One mini-batch of raw inputs; `uid` names each sample for life.

    x: [n, ...] uint8 pixels or floats; y, task, uid: [n] int64.
    """

    x: Tensor
    y: Tensor
    task: Tensor
    uid: Tensor


@dataclass(frozen=True)
class Samples:
    """Data resident as tensors, with the columns of a `Batch`."""

    x: Tensor
    y: Tensor
    task: Tensor
    uid: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` ([n] int64, on the device of the data)."""
        return Batch(
            self.x.index_select(0, index),
            self.y.index_select(0, index),
            self.task.index_select(0, index),
            self.uid.index_select(0, index),
        )

    def to(self, device: torch.device | str) -> Samples:
        return Samples(
            self.x.to(device), self.y.to(device), self.task.to(device), self.uid.to(device)
        )

    @staticmethod
    def cat(parts: Sequence[Samples]) -> Samples:
        """All rows of `parts`, in order."""
        if len(parts) == 1:
            return parts[0]
        return Samples(*(torch.cat([getattr(p, c) for p in parts]) for c in Batch._fields))

    def once(self) -> Samples:
        """Each sample where it first is: a class that came back brings some of them again."""
        sorted_, order = self.uid.sort(stable=True)
        first = torch.ones_like(sorted_, dtype=torch.bool)
        first[1:] = sorted_[1:] != sorted_[:-1]
        if first.all():
            return self
        return Samples(*self.take(order[first].sort().values))

    def digest(self) -> str:
        """SHA-256 of inputs and labels in order: the identity of this data, 64 hex digits."""
        h = hashlib.sha256()
        for t in (self.x, self.y):
            h.update(f"{t.dtype}{tuple(t.shape)}".encode())
            h.update(t.cpu().contiguous().numpy().data)
        return h.hexdigest()


@dataclass(frozen=True)
class Experience:
    """One step of the stream: data to learn, or tasks to forget.

    `index` is the position in the stream, `origin` the experience's number in its scenario; `eval`
    holds the evaluation split (test, or validation when hyper-parameters are being chosen).
    A forget request has empty `train` unless the strategy may read the data to be forgotten;
    `uids` are then the samples it withdraws, each of which had come so many `times`. `forgets` has
    the stream positions of whose data nothing is left, `emptied` the classes; `touches` has the
    numbers of the scenario's experiences that it names, or with which its samples came last.
    """

    index: int
    kind: Literal["learn", "forget"]
    tasks: tuple[int, ...]
    classes: tuple[int, ...]
    train: Samples
    eval: Samples
    origin: int = 0
    forgets: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    times: tuple[int, ...] = ()
    emptied: tuple[int, ...] = ()
    touches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Experiences in the order they come, and what is true of all of them.

    Labels are numbered in the order in which classes first appear in the scenario;
    `class_order[label]` is the class's number in the data set. `mean` and `std` are per channel,
    for pixels scaled to [0, 1]; None leaves inputs as they are.
    """

    name: str
    experiences: tuple[Experience, ...]
    num_classes: int
    setting: Setting
    class_order: tuple[int, ...]
    online: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def __len__(self) -> int:
        return len(self.experiences)

    @property
    def learned(self) -> tuple[Experience, ...]:
        """The experiences that bring data, in stream order."""
        return tuple(e for e in self.experiences if e.kind == "learn")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self.learned[0].train.x.shape[1:])

    def order(self) -> list[dict[str, Any]]:
        """What is learned and what is forgotten when: the data-free facts of each experience."""
        return [
            {
                "index": e.index,
                "origin": e.origin,
                "kind": e.kind,
                "tasks": list(e.tasks),
                "classes": list(e.classes),
                "forgets": list(e.forgets),
                "touches": list(e.touches),
            }
            for e in self.experiences
        ]

    def describe(self) -> dict[str, Any]:
        """Class order, sizes and a content hash of each experience, for the record of a run."""
        rows = [
            row
            | {
                "train_size": len(e.train),
                "eval_size": len(e.eval),
                "train_sha256": e.train.digest(),
                "eval_sha256": e.eval.digest(),
            }
            for row, e in zip(self.order(), self.experiences, strict=True)
        ]
        return {
            "scenario": self.name,
            "setting": self.setting,
            "online": self.online,
            "num_classes": self.num_classes,
            "class_order": list(self.class_order),
            "input_shape": list(self.shape),
            "experiences": rows,
        }


@dataclass(frozen=True)
class Scenario:
    """What a scenario plug-in may return instead of a bare Avalanche benchmark.

    `benchmark` has `train_stream`, `test_stream` and perhaps `val_stream`. `class_order[label]` is
    the data set's own number of each label.
    """

    benchmark: Any
    setting: Setting = "class"
    online: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_order: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
