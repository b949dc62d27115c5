"""The readers against torchvision's own, on files in the published formats, whole and damaged."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clframe.errors import DataError
from clframe.sources import load_images
from clframe.sources.catalogue import KNOWN
from clframe.sources.cifar import read_pickle
from clframe.sources.idx import FIRST_LABELS, read_idx
from tests import raw_files


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but what a test writes, and no network."""
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    monkeypatch.setattr("clframe.sources.places.DEBIAN_FASHION_MNIST", tmp_path / "no package")
    monkeypatch.setattr("clframe.sources.places.CACHE", tmp_path / "no cache")
    monkeypatch.setattr("clframe.sources.images.download", lambda dataset, target: "no network")


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_idx_files_read_as_torchvision_reads_them(tmp_path: Path, name: str) -> None:
    import torchvision

    raw_files.write_idx(tmp_path / name / "raw")
    images = load_images({"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}[name], tmp_path)
    kind = getattr(torchvision.datasets, name)
    for train, x, y in (
        (True, images.train_x, images.train_y),
        (False, images.test_x, images.test_y),
    ):
        theirs = kind(tmp_path, train=train)
        assert torch.equal(x[:, 0], theirs.data) and torch.equal(y, theirs.targets)
    assert images.train_x.dtype == torch.uint8 and images.train_y.dtype == torch.int64
    assert len(images.class_names) == 10


def test_emnists_letters_are_torchvisions_upright_and_counted_from_0(tmp_path: Path) -> None:
    import torchvision

    raw_files.write_emnist(tmp_path / "EMNIST" / "raw")
    images = load_images("emnist_letters", tmp_path)
    for train, x, y in (
        (True, images.train_x, images.train_y),
        (False, images.test_x, images.test_y),
    ):
        theirs = torchvision.datasets.EMNIST(tmp_path, split="letters", train=train)
        assert torch.equal(x[:, 0], theirs.data.mT) and x.is_contiguous()
        assert torch.equal(y, theirs.targets - 1)
    assert ["N/A", *images.class_names] == theirs.classes
    assert images.train_x.shape == (130, 1, 28, 28) and len(images.test_y) == 52


def test_zipped_letters_in_the_root_are_found_beside_mnist(tmp_path: Path) -> None:
    raw_files.write_idx(tmp_path)
    raw_files.write_emnist(tmp_path, gz=True)
    assert load_images("emnist_letters", tmp_path).num_classes == 26
    assert load_images("mnist", tmp_path).num_classes == 10


@pytest.mark.parametrize(
    ("name", "folder"), [("CIFAR10", "cifar-10-batches-py"), ("CIFAR100", "cifar-100-python")]
)
def test_cifar_files_read_as_torchvision_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    import torchvision

    getattr(raw_files, f"write_{name.lower()}")(tmp_path / folder)
    # torchvision wants the published files' checksums; ours are small ones of the same form
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda p, md5: os.path.isfile(p)
    )
    images = load_images(name.lower(), tmp_path)
    for train, x, y in (
        (True, images.train_x, images.train_y),
        (False, images.test_x, images.test_y),
    ):
        theirs = getattr(torchvision.datasets, name)(tmp_path, train=train)
        assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert y.tolist() == theirs.targets
    assert list(images.class_names) == theirs.classes


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("inner", ["MNIST/raw", "mnist", "."])
def test_idx_files_may_lie_in_the_root_or_a_folder_plain_or_zipped(
    tmp_path: Path, gz: bool, inner: str
) -> None:
    raw_files.write_idx(tmp_path / inner, gz=gz)
    images = load_images("mnist", tmp_path)
    assert images.train_x.shape == (60, 1, 28, 28) and images.test_x.shape == (30, 1, 28, 28)


def test_cifar_batches_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    raw_files.write_cifar10(tmp_path)
    assert load_images("cifar10", tmp_path).train_x.shape == (100, 3, 32, 32)


def test_mnists_files_are_not_taken_for_fashion_mnists(tmp_path: Path) -> None:
    raw_files.write_idx(tmp_path)
    first = np.array(FIRST_LABELS["mnist"] * 3, np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(raw_files.idx_bytes(first))
    assert load_images("mnist", tmp_path).train_y[:3].tolist() == [5, 0, 4]
    with pytest.raises(DataError, match="'fashion_mnist' was not found"):
        load_images("fashion_mnist", tmp_path)


def test_tiny_imagenet_is_read_from_its_folders(tmp_path: Path) -> None:
    raw_files.write_tiny(tmp_path / "tiny-imagenet-200")
    images = load_images("tinyimagenet", tmp_path)
    assert images.train_x.shape == (400, 3, 64, 64) and images.train_x.dtype == torch.uint8
    assert images.train_y.tolist() == [c for c in range(200) for _ in range(2)]
    assert images.test_y.tolist() == list(range(199, -1, -1))
    assert images.class_names[:3] == ("goldfish", "eft", "n00001014")
    colour = torch.tensor(raw_files.pixels(7, 3).astype(int))
    assert (images.train_x[14, :, 5, 5].int() - colour).abs().max() <= 4
    assert (images.test_x[-8, :, 5, 5].int() - colour).abs().max() <= 4
    grey = images.train_x[6]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])


def test_known_constants_have_one_entry_per_channel() -> None:
    for dataset in KNOWN.values():
        for constants in (dataset.mean, dataset.std):
            assert constants is None or len(constants) == dataset.shape[0]


def _damage(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    whole = raw_files.idx_bytes(raw_files.pixels(0, 5, 28, 28))
    cases = {
        "short": whole[:-1],
        "long": whole + b"x",
        "other": b"PK\x03\x04" + whole,
        "head": whole[:6],
        "empty": b"",
        "cut.gz": gzip.compress(whole)[:-20],
        "plain.gz": whole,
    }
    for name, content in cases.items():
        with pytest.raises(DataError, match=rf"{name}.*Delete it and get the data set again"):
            read_idx(_damage(tmp_path / name, content))


def test_data_of_another_shape_is_refused(tmp_path: Path) -> None:
    raw_files.write_idx(tmp_path)
    _damage(
        tmp_path / "train-images-idx3-ubyte", raw_files.idx_bytes(raw_files.pixels(0, 60, 32, 32))
    )
    with pytest.raises(DataError, match=r"mnist: the training part has images \[60, 1, 32, 32\]"):
        load_images("mnist", tmp_path)
    raw_files.write_idx(tmp_path)
    _damage(tmp_path / "t10k-labels-idx1-ubyte", raw_files.idx_bytes(np.full(30, 11, np.uint8)))
    with pytest.raises(DataError, match=r"the test part has labels 11 to 11; expected 0 to 9"):
        load_images("mnist", tmp_path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo this must never run",)


def test_a_cifar_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    raw_files.write_cifar10(tmp_path)
    batch = {"labels": [0], "data": _Evil()}
    for content in (pickle.dumps(batch), b"", b"\x80", pickle.dumps([1])):
        with pytest.raises(DataError, match=r"data_batch_3 .*Delete it"):
            _damage(tmp_path / "data_batch_3", content)
            load_images("cifar10", tmp_path)


def test_a_cifar_batch_without_labels_or_names_is_refused(tmp_path: Path) -> None:
    raw_files.write_cifar10(tmp_path)
    _damage(tmp_path / "test_batch", pickle.dumps({"data": raw_files.pixels(0, 2, 3072)}))
    with pytest.raises(DataError, match="test_batch holds no CIFAR batch"):
        load_images("cifar10", tmp_path)
    _damage(tmp_path / "batches.meta", pickle.dumps({"label_names": ["one"]}))
    with pytest.raises(DataError, match="names 1 classes where cifar10 has 10"):
        load_images("cifar10", tmp_path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_other_protocols_are_read_too(tmp_path: Path, protocol: int) -> None:
    data = raw_files.pixels(0, 2, 3072)
    path = _damage(tmp_path / "b", pickle.dumps({b"data": data, b"labels": [1, 2]}, protocol))
    assert np.array_equal(read_pickle(path)["data"], data)


def test_a_broken_tiny_imagenet_is_named(tmp_path: Path) -> None:
    raw_files.write_tiny(tmp_path)
    annotations = tmp_path / "val" / "val_annotations.txt"
    good = annotations.read_text()
    annotations.write_text(good + "val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=r"val_annotations.txt, line 201: expected"):
        load_images("tinyimagenet", tmp_path)
    annotations.write_text(good)
    _damage(tmp_path / "val" / "images" / "val_9.JPEG", b"not a picture")
    with pytest.raises(DataError, match=r"val_9.JPEG cannot be read as an image"):
        load_images("tinyimagenet", tmp_path)
    (tmp_path / "train" / "n77777777").mkdir()
    with pytest.raises(DataError, match="holds 201 classes; tinyimagenet has 200"):
        load_images("tinyimagenet", tmp_path)
