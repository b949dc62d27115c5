"""The scenarios over real data, whose contents are pinned, and in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clframe.sources.places import DEBIAN_FASHION_MNIST
from tests.contract.building import build

fashion_is_here = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="apt-get install dataset-fashion-mnist"
)


# SHA-256 of the last experience's training and test part
DIGITS = {
    "permuted_digits": (
        "cd3a05cf662441579747782383bf73627f19fe58e28dffd469eb9bf4474a951d",
        "bbac6e6d22303d375840fef8287be2511ffb7f0b2a61c715b827d06d19f03abd",
    ),
    "split_digits": (
        "cded1bfd3913a3e74c56ec64b84c9705be9d744a48b43914ac34a572128128a0",
        "829ff65df8d8eb57c001faf58a0c9adab91013c9219587ef4cd8f7d509314db9",
    ),
}
# of the first experience of the published data, as torchvision reads it
FASHION = "b61d86aef40ab911ee49e16c02ad0c75998f85f29af30f23d2df74be2b9120bf"


@pytest.mark.parametrize("name", sorted(DIGITS))
def test_the_contents_of_the_digits_never_change(name: str) -> None:
    last = build(name, None).describe()["experiences"][-1]
    assert (last["train_sha256"], last["eval_sha256"]) == DIGITS[name]


@fashion_is_here
def test_split_fmnist_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    stream = build("split_fmnist", None)
    assert [(len(e.train), len(e.eval)) for e in stream] == [(12000, 2000)] * 5
    assert stream.class_names[:2] == ("T-shirt/top", "Trouser")
    assert stream.describe()["experiences"][0]["train_sha256"] == FASHION


@fashion_is_here
@pytest.mark.parametrize("name", ["permuted_fmnist", "rotated_fmnist"])
def test_views_of_the_real_fashion_mnist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    words = [f"options.{name}.train_limit=100", f"options.{name}.experiences=3"]
    stream = build(name, None, *words)
    assert [(len(e.train), len(e.eval)) for e in stream] == [(1000, 10000)] * 3


def test_not_even_the_first_import_of_avalanche_moves_a_generator() -> None:
    """The import draws from numpy's, so it must be inside the fork; only a new process shows it."""
    code = """
import random, sys
import numpy, torch
from clframe.registry import find
build = find("scenario", "split").load()
def states():
    return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
assert not [m for m in ("avalanche", "wandb", "torchvision", "sklearn") if m in sys.modules]
before = states()
build(dataset="digits")
assert "avalanche" in sys.modules and "sklearn" not in sys.modules
assert states() == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
