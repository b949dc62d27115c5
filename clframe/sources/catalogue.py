"""The data sets clframe knows by name: their shape, their files and published constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clframe.errors import ConfigError, nearest

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images [n, C, H, W] and labels [n]
Parts = tuple[Arrays, Arrays, tuple[str, ...]]  # training, test, names of the classes


@dataclass(frozen=True)
class Known:
    """What is true of a data set before any file is opened.

    `folders` are the places inside a root where its files may lie, torchvision's own first.
    `mean` and `std` are the published ones, for pixels in [0, 1]; None: measured. `class_names` is
    empty where the files bring the names.
    """

    name: str
    form: Literal["digits", "idx", "cifar", "tiny"]
    num_classes: int
    shape: tuple[int, int, int]
    folders: tuple[str, ...] = ()
    torchvision: str | None = None
    split: str | None = None  # torchvision's name for the part of a larger collection
    debian: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] = ()


DIGITS = Known("digits", "digits", 10, (1, 8, 8), class_names=tuple("0123456789"))
FASHION_MNIST = Known(
    "fashion_mnist",
    "idx",
    10,
    (1, 28, 28),
    folders=("FashionMNIST/raw", "fashion-mnist", "fashion_mnist", "."),
    torchvision="FashionMNIST",
    debian="dataset-fashion-mnist",
    mean=(0.2860,),
    std=(0.3530,),
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
)
MNIST = Known(
    "mnist",
    "idx",
    10,
    (1, 28, 28),
    folders=("MNIST/raw", "mnist", "."),
    torchvision="MNIST",
    mean=(0.1307,),
    std=(0.3081,),
    class_names=tuple("0123456789"),
)
EMNIST_LETTERS = Known(
    "emnist_letters",
    "idx",
    26,
    (1, 28, 28),
    folders=("EMNIST/raw", "emnist", "."),
    torchvision="EMNIST",
    split="letters",
    mean=(0.1722,),
    std=(0.3309,),
    class_names=tuple("abcdefghijklmnopqrstuvwxyz"),
)
CIFAR10 = Known(
    "cifar10",
    "cifar",
    10,
    (3, 32, 32),
    folders=("cifar-10-batches-py", "."),
    torchvision="CIFAR10",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Known(
    "cifar100",
    "cifar",
    100,
    (3, 32, 32),
    folders=("cifar-100-python", "."),
    torchvision="CIFAR100",
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)
TINYIMAGENET = Known(
    "tinyimagenet",
    "tiny",
    200,
    (3, 64, 64),
    folders=("tiny-imagenet-200", "."),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
)
KNOWN = {
    k.name: k
    for k in (DIGITS, FASHION_MNIST, MNIST, EMNIST_LETTERS, CIFAR10, CIFAR100, TINYIMAGENET)
}


def known(name: str) -> Known:
    """The entry called `name`."""
    if name not in KNOWN:
        raise ConfigError(
            f"dataset={name!r} is not a data set that clframe knows.{nearest(str(name), KNOWN)}\n"
            f"Known: {', '.join(KNOWN)}. For folders of your own images: scenario=image_folder."
        )
    return KNOWN[name]
