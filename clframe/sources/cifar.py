"""CIFAR-10 and CIFAR-100 as published: pickled batches of 32 x 32 colour images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from clframe.errors import DataError
from clframe.sources.catalogue import Arrays, Known, Parts

TRAIN = {"cifar10": tuple(f"data_batch_{i}" for i in range(1, 6)), "cifar100": ("train",)}
TEST = {"cifar10": ("test_batch",), "cifar100": ("test",)}
NAMES = {"cifar10": ("batches.meta", "label_names"), "cifar100": ("meta", "fine_label_names")}
MEND = "Delete it and get the data set again."


def wanted(dataset: Known) -> list[str]:
    """The names of the files that hold `dataset`."""
    return [*TRAIN[dataset.name], *TEST[dataset.name], NAMES[dataset.name][0]]


def read(dataset: Known, folder: Path) -> Parts | None:
    """The data set in `folder`; None when its files are not there.

    Checksums are torchvision's business when it downloads. What lies in a folder is trusted to be
    data, never to be code: pickles that hold more than arrays are refused.
    """
    if not all((folder / name).is_file() for name in wanted(dataset)):
        return None
    file, key = NAMES[dataset.name]
    names = tuple(map(str, read_pickle(folder / file).get(key, ())))
    if len(names) != dataset.num_classes:
        raise DataError(
            f"{folder / file} names {len(names)} classes where {dataset.name} has "
            f"{dataset.num_classes}. {MEND}"
        )
    return _batches(folder, TRAIN[dataset.name]), _batches(folder, TEST[dataset.name]), names


def _batches(folder: Path, names: tuple[str, ...]) -> Arrays:
    images, labels = [], []
    for path in (folder / name for name in names):
        batch = read_pickle(path)
        try:
            images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(batch["fine_labels"] if "fine_labels" in batch else batch["labels"])
        except (KeyError, ValueError, TypeError) as e:
            raise DataError(f"{path} holds no CIFAR batch: {e!r}. {MEND}") from None
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and plain containers, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        package = module.split(".")[0]
        if (package, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        if package == "numpy" and name in {"_reconstruct", "_frombuffer"}:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary of arrays, lists and names in a CIFAR file."""
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} cannot be read as a CIFAR file: {e}. {MEND}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no dictionary and so no CIFAR batch. {MEND}")
    return {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
