"""TinyImageNet's folder, which torchvision has no class for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clframe.errors import DataError
from clframe.sources.catalogue import Arrays, Known, Parts
from clframe.sources.decode import decode


def wanted(dataset: Known) -> list[str]:
    """The names of the files that hold `dataset`."""
    return ["train/<class>/images/*.JPEG", "val/images/*.JPEG", "val/val_annotations.txt"]


def read(dataset: Known, folder: Path) -> Parts | None:
    """The data set in `folder`; None when it is not there.

    Its test labels were never published, so its validation part is the test part, as everywhere.
    Classes are numbered in the order of their WordNet ids.
    """
    annotations = folder / "val" / "val_annotations.txt"
    if not annotations.is_file() or not (folder / "train").is_dir():
        return None
    ids = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
    if len(ids) != dataset.num_classes:
        raise DataError(
            f"{folder / 'train'} holds {len(ids)} classes; {dataset.name} has "
            f"{dataset.num_classes}. Unpack the data set again."
        )
    label = {wnid: i for i, wnid in enumerate(ids)}
    images = {i: sorted((folder / "train" / i / "images").glob("*.JPEG")) for i in ids}
    train = [(path, label[i]) for i in ids for path in images[i]]
    test = _annotated(annotations, label)
    size = dataset.shape[1]
    return _load(train, size), _load(test, size), _names(folder / "words.txt", ids)


def _load(items: list[tuple[Path, int]], size: int) -> Arrays:
    return decode([path for path, _ in items], size), np.array([y for _, y in items], np.int64)


def _annotated(annotations: Path, label: dict[str, int]) -> list[tuple[Path, int]]:
    items = []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in label:
            raise DataError(
                f"{annotations}, line {number}: expected 'image<tab>class', got {line!r}. "
                "Unpack the data set again."
            )
        items.append((annotations.parent / "images" / fields[0], label[fields[1]]))
    return items


def _names(words: Path, ids: list[str]) -> tuple[str, ...]:
    """The first word for each class; its id where there is none."""
    lines = words.read_text().splitlines() if words.is_file() else []
    table = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(table.get(i, i).split(",")[0].strip() for i in ids)
