"""Loading a data set by name: uint8 images, labels, and what is true of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from clframe.errors import DataError
from clframe.sources import cifar, digits, idx, tiny
from clframe.sources.catalogue import Known, Parts, known
from clframe.sources.download import download
from clframe.sources.places import download_folder, missing, places

if TYPE_CHECKING:
    from torch import Tensor

FORMATS: dict[str, ModuleType] = {"idx": idx, "cifar": cifar, "tiny": tiny}


@dataclass(frozen=True)
class Images:
    """A data set in memory: x uint8 [n, C, H, W], y int64 [n] in the data set's own numbering.

    `mean` and `std` are per channel, for pixels in [0, 1].
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def load_images(name: str, root: str | Path | None = None) -> Images:
    """The data set `name`: found under `root`, $CLFRAME_DATA or a Debian package, or downloaded."""
    import torch

    dataset = known(name)
    parts = digits.read(dataset) if dataset.form == "digits" else _find(dataset, root)
    _check(dataset, parts)
    train, test, names = parts
    train_x, train_y, test_x, test_y = map(torch.from_numpy, (*train, *test))
    mean, std = dataset.mean, dataset.std
    if mean is None or std is None:
        mean, std = measure(train_x)
    return Images(train_x, train_y, test_x, test_y, mean, std, names)


def measure(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 `x`, scaled to [0, 1]."""
    import torch

    # By histogram: no float copy of the images, and the order of summation cannot matter.
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(x.shape[1]):
        share = torch.bincount(x[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        mean = float((share * levels).sum())
        means.append(mean)
        stds.append(float((share * (levels - mean) ** 2).sum()) ** 0.5)
    return tuple(means), tuple(stds)


def _find(dataset: Known, root: str | Path | None) -> Parts:
    looked = places(dataset, root)
    for place in looked:
        if parts := _read(dataset, place.folder):
            return parts
    target = download_folder(root)
    failure = download(dataset, target) if dataset.torchvision else None
    if dataset.torchvision and not failure and (parts := _read(dataset, target)):
        return parts
    raise missing(dataset, looked, FORMATS[dataset.form].wanted(dataset), target, failure)


def _read(dataset: Known, folder: Path) -> Parts | None:
    for inner in dataset.folders:
        parts: Parts | None = FORMATS[dataset.form].read(dataset, folder / inner)
        if parts:
            return parts
    return None


def _check(dataset: Known, parts: Parts) -> None:
    for (x, y), what in zip(parts[:2], ("training", "test"), strict=True):
        if x.shape[1:] != dataset.shape or len(x) != len(y) or not len(y):
            wanted = ", ".join(map(str, dataset.shape))
            raise DataError(
                f"{dataset.name}: the {what} part has images {list(x.shape)} and {len(y)} labels; "
                f"expected [n, {wanted}] and n. Get the data set again."
            )
        if y.min() < 0 or y.max() >= dataset.num_classes:
            raise DataError(
                f"{dataset.name}: the {what} part has labels {y.min()} to {y.max()}; expected "
                f"0 to {dataset.num_classes - 1}. Get the data set again."
            )
