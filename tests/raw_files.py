"""Writers of small data sets in the very formats in which the real ones are published."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pixels(seed: int, *shape: int) -> Pixels:
    """Random bytes, fixed by `seed`."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labels(num_classes: int, per_class: int) -> NDArray[np.int64]:
    """`per_class` labels of each class, interleaved, so that files are not sorted by class."""
    return np.tile(np.arange(num_classes)[::-1], per_class)


def idx_bytes(array: Pixels) -> bytes:
    """An array in idx form."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def write_idx(
    folder: Path, *, gz: bool = False, seed: int = 0, train: int = 6, test: int = 3
) -> None:
    """MNIST's four files with `train` and `test` samples of each class."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, per_class in (("train", train), ("t10k", test)):
        y = labels(10, per_class).astype(np.uint8)
        x = pixels(seed + per_class, len(y), 28, 28)
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            raw = idx_bytes(array)
            path = folder / (name + ".gz" * gz)
            path.write_bytes(gzip.compress(raw) if gz else raw)


def write_emnist(folder: Path, *, gz: bool = False) -> None:
    """EMNIST's four files of letters: five training and two test samples of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, per_class in (("train", 5), ("test", 2)):
        y = (labels(26, per_class) + 1).astype(np.uint8)
        x = pixels(per_class, len(y), 28, 28)
        for name, array in (("images-idx3-ubyte", x), ("labels-idx1-ubyte", y)):
            raw, path = idx_bytes(array), folder / (f"emnist-letters-{part}-{name}" + ".gz" * gz)
            path.write_bytes(gzip.compress(raw) if gz else raw)


class _Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Pickles as Python 2 did, which wrote CIFAR: strings and bytes are one thing."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_text(self, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text


def python2_pickle(content: Any) -> bytes:
    """`content` as the published CIFAR files hold it."""
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar10(folder: Path) -> None:
    """Five training batches of four samples of each class, and two of each to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate([*(f"data_batch_{b}" for b in range(1, 6)), "test_batch"]):
        y = labels(10, 2)
        batch = {"batch_label": name, "labels": y.tolist(), "data": pixels(i, len(y), 3072)}
        (folder / name).write_bytes(python2_pickle(batch))
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": names}))


def write_cifar100(folder: Path) -> None:
    """Four training and two test samples of each class."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, per_class in (("train", 4), ("test", 2)):
        y = labels(100, per_class)
        batch = {
            "coarse_labels": (y // 5).tolist(),
            "fine_labels": y.tolist(),
            "data": pixels(per_class, len(y), 3072),
        }
        (folder / name).write_bytes(python2_pickle(batch))
    fine = [f"fine {i}" for i in range(100)]
    meta = {"coarse_label_names": [f"coarse {i}" for i in range(20)], "fine_label_names": fine}
    (folder / "meta").write_bytes(python2_pickle(meta))


def write_image(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    """A flat image with its seed's colour, so that lossy formats keep it nearly as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(int(v) for v in pixels(seed, 3))
    Image.new("RGB", size, colour).convert(mode).save(path)


def write_tiny(folder: Path) -> None:
    """TinyImageNet's folder: 200 classes, two training images of each and one to test on."""
    ids = [f"n{1000 + 7 * i:08d}" for i in range(200)]
    lines = []
    for c, wnid in enumerate(ids):
        for i in range(2):
            mode = "L" if c == 3 else "RGB"  # some of the real ones are grey
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", c, mode=mode)
        write_image(folder / "val" / "images" / f"val_{c}.JPEG", c)
        lines.append(f"val_{c}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (folder / "wnids.txt").write_text("\n".join(reversed(ids)) + "\n")
    (folder / "words.txt").write_text(f"{ids[0]}\tgoldfish, Carassius auratus\n{ids[1]}\teft\n")


def write_image_folder(folder: Path, *, classes: int = 4, per_class: int = 5) -> None:
    """Class folders of small images of several formats and sizes."""
    for c in range(classes):
        for i in range(per_class):
            suffix = ("png", "jpg", "bmp")[i % 3]
            write_image(folder / f"class_{c}" / f"{i}.{suffix}", c, size=(20 + i, 30))


def write_all(root: Path) -> None:
    """Every data set that a preset names, as torchvision would have left it under `root`."""
    write_idx(root / "MNIST" / "raw")
    write_idx(root / "FashionMNIST" / "raw", seed=100)
    write_emnist(root / "EMNIST" / "raw")
    write_cifar10(root / "cifar-10-batches-py")
    write_cifar100(root / "cifar-100-python")
    write_tiny(root / "tiny-imagenet-200")
    write_image_folder(root / "photos")
