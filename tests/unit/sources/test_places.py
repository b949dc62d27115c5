"""Where data is looked for, in which order, and the one error when it is nowhere."""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from clframe.errors import ConfigError, DataError
from clframe.sources import load_images
from clframe.sources.images import measure
from clframe.sources.places import DEBIAN_FASHION_MNIST
from tests import raw_files

FASHION_IS_HERE = DEBIAN_FASHION_MNIST.is_dir()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with an empty cache, no package and no network."""
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    monkeypatch.setattr("clframe.sources.places.DEBIAN_FASHION_MNIST", tmp_path / "package")
    monkeypatch.setattr("clframe.sources.places.CACHE", tmp_path / "cache")

    def refuse(address: Any, *rest: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return tmp_path


def test_the_root_comes_first_then_the_environment_then_the_package_then_the_cache(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLFRAME_DATA", str(here / "environment"))
    for i, place in enumerate(["cache", "package", "environment", "root"]):
        raw_files.write_idx(here / place, gz=place == "package", train=i + 1)
        images = load_images("fashion_mnist", here / "root")
        assert len(images.train_y) == 10 * (i + 1), place


def test_missing_data_names_every_place_and_the_way_to_get_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLFRAME_DATA", str(here / "environment"))
    with pytest.raises(DataError) as error:
        load_images("fashion_mnist", here / "root")
    text = str(error.value)
    for place in ("root", "environment", "package", "cache"):
        assert str(here / place) in text
    for part in ("data.root", "$CLFRAME_DATA", "apt-get install dataset-fashion-mnist"):
        assert part in text
    assert "Network is unreachable" in text
    assert "torchvision.datasets.FashionMNIST(" in text and "FashionMNIST/raw" in text
    assert "train-images-idx3-ubyte[.gz]" in text
    assert not list(here.iterdir()), "a failed download left something behind"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnist", ["t10k-labels-idx1-ubyte[.gz]", "torchvision.datasets.MNIST("]),
        (
            "emnist_letters",
            ["EMNIST/raw", "emnist-letters-test-labels-idx1-ubyte", "split='letters', download"],
        ),
        ("cifar10", ["cifar-10-batches-py", "data_batch_1", "torchvision.datasets.CIFAR10("]),
        ("cifar100", ["cifar-100-python", "meta", "torchvision.datasets.CIFAR100("]),
        ("tinyimagenet", ["tiny-imagenet-200", "val/val_annotations.txt", "unzip"]),
    ],
)
def test_each_data_set_says_what_is_wanted(here: Path, name: str, says: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load_images(name)
    text = str(error.value)
    assert all(part in text for part in [*says, f"{name!r} was not found", str(here / "cache")])
    assert "apt-get" not in text


def test_some_of_the_files_are_not_a_data_set(here: Path) -> None:
    raw_files.write_idx(here / "root")
    (here / "root" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="was not found"):
        load_images("mnist", here / "root")


def test_a_target_that_cannot_be_written_is_one_error_too(here: Path) -> None:
    (here / "file").write_text("")
    with pytest.raises(DataError, match=r"download into .*file"):
        load_images("mnist", here / "file")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"dataset='fashion_mnits'.*Did you mean 'fashion_mnist'"):
        load_images("fashion_mnits")
    with pytest.raises(ConfigError, match="scenario=image_folder"):
        load_images("my_photos")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """MNIST's four files on a web server that torchvision takes for its mirror."""
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("clframe.sources.places.CACHE", tmp_path / "cache")
    folder = tmp_path / "mirror"
    raw_files.write_idx(folder, gz=True)
    sums = [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in sorted(folder.iterdir())]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr("torchvision.datasets.MNIST.resources", sums)
        monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [url])
        yield folder
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize("where", ["root", "environment", "cache"])
def test_what_is_nowhere_is_downloaded_once(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where != "cache":
        monkeypatch.setenv("CLFRAME_DATA", str(tmp_path / "environment"))
    root = tmp_path / "root" if where == "root" else None
    patience = socket.getdefaulttimeout()
    images = load_images("mnist", root)
    assert images.train_x.shape == (60, 1, 28, 28)
    assert [p.name for p in (tmp_path / where).iterdir()] == ["MNIST"]
    assert socket.getdefaulttimeout() == patience
    for file in mirror.iterdir():
        file.unlink()
    assert torch.equal(load_images("mnist", root).train_x, images.train_x)


def test_emnists_one_archive_is_downloaded(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_files.write_emnist(tmp_path / "letters" / "gzip", gz=True)
    archive = Path(shutil.make_archive(str(mirror / "gzip"), "zip", tmp_path / "letters", "gzip"))
    import torchvision

    url = f"{torchvision.datasets.MNIST.mirrors[0]}gzip.zip"
    monkeypatch.setattr("torchvision.datasets.EMNIST.url", url)
    monkeypatch.setattr(
        "torchvision.datasets.EMNIST.md5", hashlib.md5(archive.read_bytes()).hexdigest()
    )
    assert load_images("emnist_letters", tmp_path / "root").train_x.shape == (130, 1, 28, 28)
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["EMNIST"]


def test_a_download_that_breaks_off_leaves_nothing(mirror: Path, tmp_path: Path) -> None:
    (mirror / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="train-labels"):
        load_images("mnist", tmp_path / "deep" / "root")
    assert not (tmp_path / "deep").exists()
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="train-labels"):
        load_images("mnist", tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_a_download_with_a_wrong_checksum_is_refused(mirror: Path, tmp_path: Path) -> None:
    (mirror / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="corrupted"):
        load_images("mnist", tmp_path / "root")


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    images = load_images("digits")
    assert images.train_x.shape == (1438, 1, 8, 8) and images.test_x.shape == (359, 1, 8, 8)
    assert torch.equal(images.train_x % 15, torch.zeros_like(images.train_x))
    ours = torch.cat([images.train_x, images.test_x]).flatten(1) // 15
    y = torch.cat([images.train_y, images.test_y])
    rows = sorted(zip(ours.tolist(), y.tolist(), strict=True))
    assert rows == sorted(
        zip(theirs.data.astype(int).tolist(), theirs.target.tolist(), strict=True)
    )
    shares = torch.bincount(images.test_y) / torch.bincount(y)
    assert ((shares - 0.2).abs() < 0.01).all()
    floats = images.train_x.double() / 255
    assert images.mean == pytest.approx((float(floats.mean()),))
    assert images.std == pytest.approx((float(floats.std(correction=0)),))


@pytest.mark.skipif(not FASHION_IS_HERE, reason="apt-get install dataset-fashion-mnist")
def test_fashion_mnist_comes_from_the_debian_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    images = load_images("fashion_mnist", tmp_path)
    assert images.train_x.shape == (60000, 1, 28, 28) and images.test_x.shape == (10000, 1, 28, 28)
    assert torch.bincount(images.train_y).tolist() == [6000] * 10
    assert images.train_y[:5].tolist() == [9, 0, 0, 3, 0]
    mean, std = measure(images.train_x)
    assert images.mean == pytest.approx(mean, abs=1e-4) and images.std == pytest.approx(
        std, abs=1e-4
    )
    with pytest.raises(DataError, match="'mnist' was not found"):
        monkeypatch.setattr("clframe.sources.images.download", lambda dataset, target: "no network")
        monkeypatch.setattr("clframe.sources.places.CACHE", tmp_path)
        load_images("mnist", DEBIAN_FASHION_MNIST)
