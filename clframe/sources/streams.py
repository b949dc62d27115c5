"""From a data set to the samples of every experience, and from those to a scenario."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from clframe.errors import DataError
from clframe.sources.images import Images
from clframe.sources.splits import (
    SETTINGS,
    holdout,
    limit_per_class,
    one_of,
    portion_per_class,
    share,
    whole,
)

if TYPE_CHECKING:
    from torch import Tensor

    from clframe.core.experience import Samples, Scenario, Setting

View = Callable[["Tensor"], "Tensor"]


class Rows:
    """An experience's samples as a data set of (x, y) pairs: the leaf of our Avalanche benchmarks.

    Whoever knows it takes `samples` whole; whoever does not gets items one by one.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.samples.x[index], int(self.samples.y[index])


@dataclass(frozen=True)
class Draw:
    """Which training samples are used, and for what: the options that all scenarios share.

    `val_share` of each class is held out for validation. Of the rest, `train_limit` samples of each
    class are trained on; None means all. Both are drawn by `seed`.
    """

    val_share: float = 0.0
    train_limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        share("val_share", self.val_share)
        whole("seed", self.seed, 0)
        if self.train_limit is not None:
            whole("train_limit", self.train_limit, 1)

    def rows(self, y: Tensor) -> dict[str, Tensor]:
        """Indices into `y` of the streams "train" and, if there is one, "val"."""
        kept, held = holdout(y, self.val_share, seed=self.seed, purpose="validation")
        train = kept[limit_per_class(y[kept], self.train_limit, seed=self.seed)]
        return {"train": train, "val": held} if len(held) else {"train": train}


@dataclass(frozen=True)
class Streams:
    """The samples of every experience, by stream: "train", "test" and perhaps "val".

    A uid is a sample's index in the data set, where the test part follows the training part.
    """

    samples: dict[str, list[Samples]]
    setting: Setting
    class_order: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scenario(self, benchmarks: Any, *, online: bool = False) -> Scenario:
        """The Avalanche benchmark with these streams, and what it cannot say of itself.

        `benchmarks` is `avalanche.benchmarks`, imported by the scenario when it is called: that
        import takes seconds, and nothing below the scenarios may need it.
        """
        from clframe.core.experience import Scenario

        made = benchmarks.benchmark_from_datasets(
            **{
                name: [_avalanche_dataset(benchmarks.utils, s) for s in parts]
                for name, parts in self.samples.items()
            }
        )
        if self.setting == "task":
            made = benchmarks.task_incremental_benchmark(made)
        return Scenario(
            benchmark=benchmarks.with_classes_timeline(made),
            setting=self.setting,
            online=online,
            mean=self.mean,
            std=self.std,
            class_order=self.class_order,
            class_names=self.class_names,
        )


def _avalanche_dataset(utils: Any, samples: Samples) -> Any:
    columns = {"targets": samples.y, "uid": samples.uid}
    attributes = [utils.DataAttribute(column.tolist(), name) for name, column in columns.items()]
    return utils.AvalancheDataset([Rows(samples)], data_attributes=attributes)


def by_classes(
    images: Images,
    groups: Sequence[Sequence[int]],
    draw: Draw,
    *,
    setting: str = "class",
    portion: float = 1.0,
) -> Streams:
    """One experience per group of classes; a class may come in several, and its samples with it.

    Labels count the classes as they first come; if domain-incremental, within their group. Each
    time a class comes, a `portion` of its training samples is drawn anew.
    """
    kind = cast("Setting", one_of("setting", setting, SETTINGS))
    order = list(dict.fromkeys(c for group in groups for c in group))

    def chosen(name: str, y: Tensor, rows: Tensor, e: int) -> Tensor:
        mine = _among(y, rows, groups[e])
        if name != "train" or portion == 1:
            return mine
        return mine[portion_per_class(y[mine], portion, seed=draw.seed, purpose=f"portion {e}")]

    samples = {
        name: [
            _samples(
                *(x, y, chosen(name, y, rows, e)),
                _table(group if kind == "domain" else order),
                e if kind == "task" else 0,
                first,
            )
            for e, group in enumerate(groups)
        ]
        for name, x, y, rows, first in _sides(images, draw)
    }
    for name, parts in samples.items():
        for group, part in zip(groups, parts, strict=True):
            _check(part, group, name, images)
    names = () if setting == "domain" else tuple(images.class_names[c] for c in order)
    return Streams(samples, kind, tuple(order), names, images.mean, images.std)


def by_views(images: Images, views: Sequence[View], draw: Draw, setting: str = "domain") -> Streams:
    """One experience per view: the same samples, changed by it; setting "domain" or "task".

    A view maps uint8 images [n, C, H, W] to others of the same kind. A changed image is a sample of
    its own, so the uids of each view follow those of the view before.
    """
    kind = cast("Setting", one_of("setting", setting, ("domain", "task")))
    order = tuple(range(images.num_classes))
    total = len(images.train_y) + len(images.test_y)
    label = _table(order)
    samples: dict[str, list[Samples]] = {}
    for name, x, y, rows, first in _sides(images, draw):
        plain = _samples(x, y, rows, label, 0, first)
        samples[name] = [_seen_through(plain, view, v * total) for v, view in enumerate(views)]
    return Streams(samples, kind, order, images.class_names, images.mean, images.std)


def _sides(images: Images, draw: Draw) -> Iterator[tuple[str, Tensor, Tensor, Tensor, int]]:
    """Name, inputs, labels, chosen rows and first uid of each stream."""
    import torch

    for name, rows in draw.rows(images.train_y).items():
        yield name, images.train_x, images.train_y, rows, 0
    every = torch.arange(len(images.test_y))
    yield "test", images.test_x, images.test_y, every, len(images.train_y)


def _table(classes: Sequence[int]) -> Tensor:
    """The label of each class number: its place among `classes`."""
    import torch

    table = torch.full((max(classes) + 1,), -1)
    table[list(classes)] = torch.arange(len(classes))
    return table


def _among(y: Tensor, rows: Tensor, classes: Sequence[int]) -> Tensor:
    import torch

    return rows[torch.isin(y[rows], torch.tensor(list(classes)))]


def _samples(x: Tensor, y: Tensor, rows: Tensor, label: Tensor, task: int, first: int) -> Samples:
    import torch

    from clframe.core.experience import Samples

    return Samples(x[rows], label[y[rows]], torch.full((len(rows),), task), rows + first)


def _seen_through(samples: Samples, view: View, shift: int) -> Samples:
    from clframe.core.experience import Samples

    return Samples(view(samples.x), samples.y, samples.task, samples.uid + shift)


def _check(part: Samples, group: Sequence[int], stream: str, images: Images) -> None:
    if len(part.y.unique()) < len(group):
        names = ", ".join(images.class_names[c] for c in group)
        raise DataError(
            f"the {stream} part of the data set has no samples of some class of: {names}"
        )


@contextmanager
def forked_rng() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the global generators go on as if it had not been."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
