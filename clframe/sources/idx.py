"""MNIST's idx files, and the data sets that come in them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from clframe.errors import DataError
from clframe.sources.catalogue import Known, Parts

# These two name their files alike; their labels tell them apart.
FIRST_LABELS = {
    "mnist": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7, 2, 8, 6, 9],
    "fashion_mnist": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9, 1, 0, 6, 4],
}
UBYTE = 8
MEND = "Delete it and get the data set again."


def wanted(dataset: Known) -> list[str]:
    """The names of the files that hold `dataset`."""
    return [f"{name}[.gz]" for name in _files(dataset)]


def _files(dataset: Known) -> list[str]:
    """Images and labels of the training part, then of the test part."""
    prefix = f"emnist-{dataset.split}"
    parts = (f"{prefix}-train", f"{prefix}-test") if dataset.split else ("train", "t10k")
    return [f"{p}-{what}-ubyte" for p in parts for what in ("images-idx3", "labels-idx1")]


def read(dataset: Known, folder: Path) -> Parts | None:
    """The data set in `folder`; None when its files are not there or are the other data set's.

    EMNIST's images lie on their side and its letters count from 1; here they stand, and from 0.
    """
    names = _files(dataset)
    paths = [path for name in names if (path := _plain_or_gz(folder / name))]
    if len(paths) < len(names):
        return None
    train_y, test_y = (read_idx(path).astype(np.int64) for path in paths[1::2])
    other = (labels for name, labels in FIRST_LABELS.items() if name != dataset.name)
    if train_y[:20].tolist() in other:
        return None
    train_x, test_x = (read_idx(path)[:, None] for path in paths[::2])
    if dataset.split == "letters":
        train_x, test_x = (np.ascontiguousarray(x.swapaxes(2, 3)) for x in (train_x, test_x))
        train_y, test_y = train_y - 1, test_y - 1
    return (train_x, train_y), (test_x, test_y), dataset.class_names


def _plain_or_gz(path: Path) -> Path | None:
    both = (path, path.with_name(path.name + ".gz"))
    return next((p for p in both if p.is_file()), None)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file, gzipped when its name says so."""
    try:
        with _open(path) as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be read: {e}. {MEND}") from None
    if len(raw) < 4 or raw[0] or raw[1] or raw[2] != UBYTE or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is not an idx file of unsigned bytes. {MEND}")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], ">u4").astype(int).tolist())
    if len(raw) - start != int(np.prod(shape)):
        raise DataError(
            f"{path} holds {len(raw) - start} bytes where its head announces {shape}. {MEND}"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")
