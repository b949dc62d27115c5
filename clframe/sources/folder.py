"""A user's own images: one folder per class, with or without a test part of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clframe.errors import ConfigError, DataError
from clframe.sources.decode import decode
from clframe.sources.images import Images, measure
from clframe.sources.splits import holdout, share, whole

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
LAYOUT = "Expected <path>/<class>/<image>, or <path>/train/<class>/<image> beside test/ or val/."


def load_image_folder(
    path: str | Path, size: int = 64, *, test_share: float = 0.2, seed: int = 0
) -> Images:
    """The class folders in `path`, in order of their names, as RGB images of `size` x `size`.

    With `train/` and `test/` (or `val/`) inside, these are the two parts. Otherwise `test_share` of
    each class, drawn by `seed`, is the test part.
    """
    whole("size", size, 1)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(
            f"path={str(path)!r} is not a folder (looked at {root.absolute()}). {LAYOUT}"
        )
    apart = next((root / p for p in ("test", "val") if (root / p).is_dir()), None)
    if apart is not None and (root / "train").is_dir():
        names = _classes(root / "train")
        _same_classes(names, apart)
        (train_x, train_y), (test_x, test_y) = (
            _load(p, names, size) for p in (root / "train", apart)
        )
    else:
        if not share("test_share", test_share):
            raise ConfigError(f"test_share={test_share}: nothing to test on. Use test_share=0.2.")
        names = _classes(root)
        x, y = _load(root, names, size)
        train, test = holdout(y, test_share, seed=seed, purpose=f"test part of {root}")
        train_x, train_y, test_x, test_y = x[train], y[train], x[test], y[test]
    mean, std = measure(train_x)
    return Images(train_x, train_y, test_x, test_y, mean, std, tuple(names))


def _classes(folder: Path) -> list[str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder.absolute()} holds no class folders. {LAYOUT}")
    return names


def _same_classes(names: list[str], apart: Path) -> None:
    differing = sorted(set(names) ^ set(_classes(apart)))
    if differing:
        raise DataError(
            f"{apart.absolute()} and train/ must hold the same classes; only one of them has "
            f"{', '.join(differing[:10])}."
        )


def _load(folder: Path, names: list[str], size: int) -> tuple[Tensor, Tensor]:
    import torch

    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{(folder / name).absolute()} holds no images. {LAYOUT}")
        paths += found
        labels += [label] * len(found)
    return torch.from_numpy(decode(paths, size)), torch.from_numpy(np.array(labels, np.int64))
