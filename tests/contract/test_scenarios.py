"""Every scenario and preset, from the registry: it builds, repeats itself, and leaves no trace."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clframe.errors import ConfigError, DataError
from clframe.registry import plugin_names, plugins, preset_files
from tests import raw_files
from tests.contract.building import build

NAMES = plugin_names("scenario")
PRESETS = {
    *("split_digits", "split_fmnist", "split_mnist", "split_cifar10", "split_cifar100"),
    *("split_tinyimagenet", "permuted_mnist", "permuted_fmnist", "permuted_digits"),
    *("rotated_mnist", "rotated_fmnist", "base_digits", "base_fmnist", "base_cifar100"),
    *("base_tinyimagenet", "blurry_digits", "blurry_fmnist", "blurry_mnist"),
    *("split_emnist", "blurry_emnist"),
}
PLUGINS = {"split", "permuted", "rotated", "image_folder", "blobs", "blurry"}


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files in the true formats of every data set."""
    root = tmp_path_factory.mktemp("raw")
    raw_files.write_all(root)
    return root


def states() -> tuple[Any, ...]:
    """Of every global generator."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()


def test_all_scenarios_are_there_and_presets_say_what_they_are() -> None:
    assert set(plugins("scenario")) >= PLUGINS
    assert set(preset_files("scenario")) >= PRESETS
    for name in PRESETS:
        text = preset_files("scenario")[name].read_text()
        assert text.startswith("# ") and len(text.splitlines()[0]) > 20
        content = yaml.safe_load(text)
        kind = name.split("_")[0]
        assert set(content) == {"plugin", "options"}
        assert content["plugin"] == ("split" if kind == "base" else kind)


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_repeats_itself_and_moves_no_generator(name: str, raw: Path) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = states()
    stream = build(name, raw)
    assert states() == before
    random.seed(4), np.random.seed(4), torch.manual_seed(4)
    assert build(name, raw).describe() == stream.describe()
    assert len(stream) >= 2 and len(stream.shape) in (1, 3)
    assert (stream.mean is None) == (stream.experiences[0].train.x.dtype != torch.uint8)
    assert stream.mean is None or len(stream.mean) == len(stream.std or ()) == stream.shape[0]
    seen: set[int] = set()
    named: dict[int, bytes] = {}
    for i, exp in enumerate(stream):
        assert (exp.index, exp.origin, exp.kind) == (i, i, "learn")
        assert exp.classes == tuple(sorted(set(exp.train.y.tolist())))
        assert set(exp.eval.y.tolist()) == set(exp.classes)
        seen.update(exp.classes)
        assert seen == set(range(len(seen))), "labels must count classes as they appear"
        assert not set(exp.train.uid.tolist()) & set(exp.eval.uid.tolist())
        for part in (exp.train, exp.eval):
            assert part.y.dtype == part.uid.dtype == part.task.dtype == torch.int64
            assert not part.task.any() and exp.tasks == (0,)
            assert part.x.is_contiguous() and len(part.uid.unique()) == len(part)
            for uid, x, y in zip(part.uid.tolist(), part.x, part.y.tolist(), strict=True):
                assert named.setdefault(uid, what := x.numpy().tobytes() + bytes([y])) == what
    assert len(seen) == stream.num_classes
    assert sorted(stream.class_order) == list(range(len(stream.class_order)))
    json.dumps(stream.describe())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_hold_out_a_stratified_share(name: str, raw: Path) -> None:
    words = [f"options.{name}.val_share=0.5"]
    plain = build(name, raw)
    tested, chosen = (build(name, raw, *words, split=split) for split in ("test", "val"))
    with pytest.raises(ConfigError, match=f"options.{name}.val_share=0.1"):
        build(name, raw, split="val")
    for all_, test, val in zip(plain, tested, chosen, strict=True):
        assert torch.equal(test.train.uid, val.train.uid)
        assert torch.equal(test.eval.uid, all_.eval.uid)
        both = torch.cat([val.train.uid, val.eval.uid]).sort().values
        assert torch.equal(both, all_.train.uid.sort().values)
        counts = [torch.bincount(s.y, minlength=plain.num_classes) for s in (all_.train, val.eval)]
        assert ((counts[0] / 2 - counts[1]).abs() <= 0.5).all()


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        ("split_mnist", [(12, 6)] * 5, (1, 28, 28), 10),
        ("split_fmnist", [(12, 6)] * 5, (1, 28, 28), 10),
        ("split_emnist", [(10, 4)] * 13, (1, 28, 28), 26),
        ("split_cifar10", [(20, 4)] * 5, (3, 32, 32), 10),
        ("split_cifar100", [(40, 20)] * 10, (3, 32, 32), 100),
        ("split_tinyimagenet", [(40, 20)] * 10, (3, 64, 64), 200),
        ("permuted_mnist", [(60, 30)] * 5, (1, 28, 28), 10),
        ("rotated_fmnist", [(60, 30)] * 5, (1, 28, 28), 10),
        ("image_folder", [(8, 2)] * 2, (3, 8, 8), 4),
        ("base_fmnist", [(24, 12), *[(12, 6)] * 3], (1, 28, 28), 10),
        ("base_cifar100", [(200, 100), *[(40, 20)] * 5], (3, 32, 32), 100),
        ("base_tinyimagenet", [(200, 100), *[(40, 20)] * 5], (3, 64, 64), 200),
        ("blurry_mnist", [(18, 9)] * 7, (1, 28, 28), 10),
    ],
)
def test_sizes(
    name: str, sizes: list[tuple[int, int]], shape: tuple[int, ...], classes: int, raw: Path
) -> None:
    stream = build(name, raw)
    assert [(len(e.train), len(e.eval)) for e in stream] == sizes
    assert stream.shape == shape and stream.num_classes == classes


def test_base_and_increments_split_cifar100_into_50_and_5_times_10(raw: Path) -> None:
    name = "split_cifar100"
    stream = build(name, raw, f"options.{name}.base=50", f"options.{name}.increment=10")
    preset = build("base_cifar100", raw).describe()
    assert stream.describe() | {"scenario": "base_cifar100"} == preset
    assert [len(e.classes) for e in stream] == [50, 10, 10, 10, 10, 10]
    assert stream.experiences[5].classes == tuple(range(90, 100))
    assert stream.class_names[99] == "fine 99"


def test_the_class_order_is_recorded_and_follows_the_seed(raw: Path) -> None:
    shuffle = "options.split_cifar10.order=shuffled"
    first, again, other = (build("split_cifar10", raw, shuffle, seed=s) for s in (1, 1, 2))
    assert first.describe()["class_order"] == list(again.class_order)
    assert first.class_order != other.class_order
    fixed = build("split_cifar10", raw, "options.split_cifar10.order=[9,8,7,6,5,4,3,2,1,0]")
    assert fixed.class_order == (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    assert fixed.class_names[0] == "truck" and fixed.experiences[0].classes == (0, 1)
    own = build("split_cifar10", raw)
    assert fixed.experiences[0].train.digest() != own.experiences[4].train.digest()
    assert torch.equal(fixed.experiences[0].train.x, own.experiences[4].train.x)


def test_settings_change_tasks_and_labels_and_nothing_else(raw: Path) -> None:
    plain, task, domain = (
        build("split_digits", raw, f"options.split_digits.setting={setting}")
        for setting in ("class", "task", "domain")
    )
    assert (plain.setting, task.setting, domain.setting) == ("class", "task", "domain")
    assert [e.tasks for e in task] == [(i,) for i in range(5)]
    assert task.experiences[3].eval.task.unique().tolist() == [3]
    assert domain.num_classes == 2 and [e.classes for e in domain] == [(0, 1)] * 5
    assert domain.class_order == tuple(range(10))
    for a, b, c in zip(plain, task, domain, strict=True):
        assert torch.equal(a.train.x, b.train.x) and torch.equal(a.train.x, c.train.x)
        assert torch.equal(a.train.y, b.train.y) and torch.equal(a.train.y % 2, c.train.y)


def test_online_and_a_limit_are_passed_on(raw: Path) -> None:
    words = ["options.split_digits.online=true", "options.split_digits.train_limit=7"]
    stream = build("split_digits", raw, *words)
    assert stream.online and not build("split_digits", raw).online
    for exp in stream:
        assert torch.bincount(exp.train.y)[list(exp.classes)].tolist() == [7, 7]
        assert len(exp.eval) > 60


def test_permutations_keep_the_pixels_and_follow_the_seed(raw: Path) -> None:
    first, other = build("permuted_digits", raw), build("permuted_digits", raw, seed=1)
    plain = build("split_digits", raw, "options.split_digits.experiences=1").experiences[0]
    assert torch.equal(first.experiences[0].train.x, plain.train.x)
    assert torch.equal(first.experiences[0].eval.x, other.experiences[0].eval.x)
    for e in (1, 4):
        a, b = first.experiences[e].train.x.flatten(1), other.experiences[e].train.x.flatten(1)
        assert not torch.equal(a, b)
        assert torch.equal(a.sort(1).values, plain.train.x.flatten(1).sort(1).values)
    moved = {tuple(e.train.x[0].flatten().tolist()) for e in first}
    assert len(moved) == 5
    colour = build("permuted", raw, "options.permuted.dataset=cifar10").experiences
    where = colour[1].train.x[0].flatten(1).float(), colour[0].train.x[0].flatten(1).float()
    assert torch.equal(where[0].mean(1), where[1].mean(1)), "channels must not mix"


def test_rotations_turn_by_equal_steps_or_given_angles(raw: Path) -> None:
    stream = build("rotated", raw, "options.rotated.experiences=3", "options.rotated.max_angle=180")
    x = [e.train.x for e in stream]
    assert torch.equal(x[1], x[0].rot90(1, (2, 3))) and torch.equal(x[2], x[0].flip(2, 3))
    given = build("rotated", raw, "options.rotated.angles=[0,180]")
    assert len(given) == 2 and torch.equal(
        given.experiences[1].eval.x, stream.experiences[2].eval.x
    )
    slanted = build("rotated", raw, "options.rotated.angles=[30]").experiences[0].train.x
    assert slanted.dtype == torch.uint8 and not torch.equal(slanted, x[0])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["split_digits", "experiences=3"], ["experiences=3", "1, 2, 5, 10"]),
        (["split_digits", "experiences=11"], ["experiences=11", "Use experiences=10"]),
        (["split_digits", "experiences=0"], ["experiences=0", "at least 1"]),
        (["split_digits", "base=4", "increment=4"], ["base=4, increment=4", "Use increment=3"]),
        (["split_digits", "order=[0,1,2]"], ["order=[0, 1, 2]", "lacks 3"]),
        (["split_digits", "order=shuffle"], ["Did you mean 'shuffled'?"]),
        (["split_digits", "setting=domian"], ["Did you mean 'domain'?"]),
        (["split_digits", "val_share=1.0"], ["val_share=1.0", "[0, 1)"]),
        (["split_digits", "train_limit=-1"], ["train_limit=-1", "at least 1"]),
        (["split", "dataset=mnits"], ["dataset='mnits'", "Did you mean 'mnist'?"]),
        (["permuted_digits", "experiences=0"], ["experiences=0"]),
        (["rotated", "experiences=3", "angles=[1,2]"], ["one angle for each", "experiences=2"]),
        (["rotated", "angles=[]"], ["one angle for each"]),
        (["blobs", "tasks=4"], ["tasks=4", "Use tasks=3"]),
        (["blobs", "per_class=1"], ["per_class=1"]),
        (["image_folder", "test_share=0.0"], ["test_share=0.0", "Use test_share=0.2"]),
    ],
)
def test_impossible_options_are_one_clear_error(
    words: list[str], says: list[str], raw: Path
) -> None:
    name, *options = words
    with pytest.raises(ConfigError) as error:
        build(name, raw, *(f"options.{name}.{o}" for o in options))
    assert all(part in str(error.value) for part in says), str(error.value)


def test_an_impossible_split_is_refused_before_its_data_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clframe.sources.images.download", lambda dataset, target: "no network")
    monkeypatch.setattr("clframe.sources.places.CACHE", tmp_path)
    monkeypatch.delenv("CLFRAME_DATA", raising=False)
    with pytest.raises(ConfigError, match="experiences=7"):
        build("split_cifar100", tmp_path, "options.split_cifar100.experiences=7")
    with pytest.raises(DataError, match=r"CIFAR100.*download=True"):
        build("split_cifar100", tmp_path)
