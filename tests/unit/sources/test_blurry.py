"""Blurry boundaries: which classes come when, with how much of their data, under which labels."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from clframe.scenarios.blurry import blurry_groups

from clframe.core.experience import Stream
from clframe.errors import ConfigError
from tests.contract.building import build

SEEDS = range(8)


def digits(*options: str, seed: int = 0, split: str = "test") -> Stream:
    words = [f"options.blurry_digits.{o}" for o in options]
    return build("blurry_digits", None, *words, split=split, seed=seed)


@pytest.mark.parametrize(("classes", "slots", "p_new"), [(10, 3, 0.3), (26, 1, 0.5), (7, 7, 0.1)])
def test_all_classes_come_in_experiences_of_distinct_ones(
    classes: int, slots: int, p_new: float
) -> None:
    for seed in SEEDS:
        groups = blurry_groups(classes, slots=slots, p_new=p_new, seed=seed)
        assert all(len(set(g)) == len(g) == slots for g in groups)
        assert {c for g in groups for c in g} == set(range(classes))
        before = {c for g in groups[:-1] for c in g}
        assert len(before) < classes, "it ends as soon as all have come"
        assert groups == blurry_groups(classes, slots=slots, p_new=p_new, seed=seed)
    assert len(groups) == 1 or groups != blurry_groups(classes, slots=slots, p_new=p_new, seed=99)


def test_always_new_is_a_split_whose_last_part_is_filled_up() -> None:
    groups = blurry_groups(10, slots=3, p_new=1, seed=0)
    assert len(groups) == 4 and len({c for g in groups[:3] for c in g}) == 9
    assert len(set(groups[3]) & {c for g in groups[:3] for c in g}) == 2


@pytest.mark.parametrize("p_new", [0.1, 0.3, 0.8])
def test_new_classes_are_as_frequent_as_asked(p_new: float) -> None:
    new = draws = 0
    firsts = torch.zeros(20)
    for seed in range(300):
        first, *later = blurry_groups(20, slots=3, p_new=p_new, seed=seed)
        firsts[list(first)] += 1
        seen = set(first)
        for c in (c for group in later for c in group):
            draws += len(seen) < 20
            new += c not in seen
            seen.add(c)
    spread = (p_new * (1 - p_new) * draws) ** 0.5
    assert abs(new - p_new * draws) < 4 * spread
    assert ((firsts - 45).abs() < 4 * (300 * 0.15 * 0.85) ** 0.5).all(), "any class may come first"


def test_returning_classes_are_drawn_alike() -> None:
    """With one slot and one class seen, the next is that class; of two, either half the time."""
    came = torch.zeros(2)
    for seed in range(400):
        order: list[int] = []
        for (c,) in blurry_groups(3, slots=1, p_new=0.2, seed=seed):
            if len(order) == 2 and c in order:
                came[order.index(c)] += 1
            order += [c] * (c not in order)
    assert (came[0] - came[1]).abs() < 4 * came.sum() ** 0.5


def test_labels_count_classes_as_they_come_and_name_them_for_good() -> None:
    for seed in SEEDS:
        stream = digits(seed=seed)
        assert stream.num_classes == 10 and stream.setting == "class"
        assert sorted(stream.class_order) == list(range(10)) and stream.class_order != tuple(
            range(10)
        )
        assert stream.class_names == tuple(map(str, stream.class_order))
        assert stream.experiences[0].classes == (0, 1, 2)
        highest = 2
        for exp in stream:
            assert len(exp.classes) == 3
            new = [c for c in exp.classes if c > highest]
            assert new == list(range(highest + 1, highest + 1 + len(new)))
            highest += len(new)


def test_a_sample_keeps_its_uid_label_and_pixels_when_it_comes_back() -> None:
    stream = digits()
    seen: dict[int, tuple[int, torch.Tensor]] = {}
    back = 0
    for exp in stream:
        for part in (exp.train, exp.eval):
            assert len(part.uid.unique()) == len(part)
            for x, y, uid in zip(part.x, part.y.tolist(), part.uid.tolist(), strict=True):
                back += uid in seen
                label, pixels = seen.setdefault(uid, (y, x))
                assert label == y and torch.equal(pixels, x)
    assert back > len(stream.experiences[0].train)
    assert sorted(seen) == list(range(1797)), "all of the training and of the test part"


def test_a_share_is_drawn_anew_each_time_and_tested_on_everything() -> None:
    whole, part, again = digits(), digits("p_sample=0.25"), digits("p_sample=0.25")
    drawn: dict[int, list[set[int]]] = {}
    for full, some, same in zip(whole, part, again, strict=True):
        assert torch.equal(some.train.uid, same.train.uid)
        assert torch.equal(some.eval.uid, full.eval.uid) and some.classes == full.classes
        for c in some.classes:
            of, out = some.train.uid[some.train.y == c], full.train.uid[full.train.y == c]
            assert len(of) == max(1, round(0.25 * len(out)))
            assert set(of.tolist()) < set(out.tolist())
            drawn.setdefault(c, []).append(set(of.tolist()))
    several = [sets for sets in drawn.values() if len(sets) > 1]
    assert several and all(a != b for sets in several for a, b in pairwise(sets))
    least = digits("p_sample=0.001").experiences[0].train
    assert torch.bincount(least.y).tolist() == [1, 1, 1]


def test_validation_is_apart_from_all_training_and_shares_come_after_the_limit() -> None:
    words = ["val_share=0.2", "train_limit=10", "p_sample=0.5"]
    stream, test = digits(*words, split="val"), digits(*words)
    held = {u for exp in stream for u in exp.eval.uid.tolist()}
    assert not held & {u for exp in stream for u in exp.train.uid.tolist()}
    for a, b in zip(stream, test, strict=True):
        assert torch.equal(a.train.uid, b.train.uid)
        assert torch.bincount(a.train.y)[list(a.classes)].tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("slots=0", ["slots=0", "at least 1"]),
        ("slots=11", ["slots=11", "10 classes", "slots=10"]),
        ("p_new=0", ["p_new=0", "above 0", "0.3"]),
        ("p_new=1.5", ["p_new=1.5"]),
        ("p_new=0.000001", ["p_new=1e-06", "1000 experiences", "of 10 classes", "p_new=0.3"]),
        ("p_sample=0", ["p_sample=0"]),
        ("p_smaple=0.5", ["p_sample"]),
        ("dataset=mnits", ["Did you mean 'mnist'?"]),
    ],
)
def test_impossible_options_are_named(option: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        digits(option)
    assert all(part in str(error.value) for part in says), str(error.value)
