"""Where raw data may lie, and the one error for when it lies nowhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clframe.errors import DataError
from clframe.sources.catalogue import Known

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path("~/.cache/clframe")


class Place(NamedTuple):
    """A folder that may hold data, and who says so."""

    folder: Path
    says: str


def places(dataset: Known, root: str | Path | None = None) -> list[Place]:
    """The folders to search for `dataset`, in order; the last is where downloads of old lie."""
    found = []
    if root is not None and str(root):
        found.append(Place(Path(root).expanduser().absolute(), "data.root"))
    if os.environ.get("CLFRAME_DATA"):
        found.append(
            Place(Path(os.environ["CLFRAME_DATA"]).expanduser().absolute(), "$CLFRAME_DATA")
        )
    if dataset.debian:
        found.append(Place(DEBIAN_FASHION_MNIST, f"Debian package {dataset.debian}"))
    found.append(Place(CACHE.expanduser(), "clframe's cache"))
    return found


def download_folder(root: str | Path | None = None) -> Path:
    """Where torchvision's downloads go: the root, else $CLFRAME_DATA, else clframe's cache."""
    chosen = (str(root) if root is not None else "") or os.environ.get("CLFRAME_DATA") or CACHE
    return Path(chosen).expanduser().absolute()


def missing(
    dataset: Known, looked: Sequence[Place], files: Sequence[str], target: Path, failure: str | None
) -> DataError:
    """The error that names every place looked at and the command that gets the data."""
    lines = [f"data set {dataset.name!r} was not found. Looked in:"]
    lines += [f"  {place.folder} ({place.says})" for place in looked]
    if failure:
        lines.append(f"  torchvision's download into {target}: {failure}")
    lines.append(f"Wanted there, or in one of {', '.join(dataset.folders)}: {', '.join(files)}.")
    if dataset.debian:
        lines.append(f"On Debian: apt-get install {dataset.debian}")
    if dataset.torchvision:
        part = f", split={dataset.split!r}" if dataset.split else ""
        call = f"torchvision.datasets.{dataset.torchvision}({str(target)!r}{part}, download=True)"
        lines.append(f'Where there is a network: python -c "import torchvision; {call}"')
    else:
        lines.append(
            "torchvision cannot download it: get tiny-imagenet-200.zip from its authors, then "
            f"unzip tiny-imagenet-200.zip -d {target}"
        )
    return DataError("\n".join(lines))
