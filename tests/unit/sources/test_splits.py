"""Dealing out: class order, sizes of experiences, held-out and limited samples, and the errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clframe.errors import ConfigError, DataError
from clframe.sources.splits import (
    class_groups,
    class_order,
    holdout,
    limit_per_class,
    one_of,
    partition,
    share,
    whole,
)


def test_class_order_is_the_data_sets_own_a_seeded_shuffle_or_a_list() -> None:
    assert class_order(4, None, 7) == (0, 1, 2, 3)
    assert class_order(4, [2, 0, 3, 1], 7) == (2, 0, 3, 1)
    first, again, other = (class_order(20, "shuffled", seed) for seed in (7, 7, 8))
    assert first == again != other
    assert sorted(first) == list(range(20))


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ([0, 1, 2], ["order=[0, 1, 2]", "lacks 3", "'shuffled'"]),
        ([0, 1, 1, 2], ["lacks 3", "repeats 1"]),
        ([0, 1, 2, 4], ["lacks 3", "has no class 4", "0 to 3"]),
        ("shufled", ["order='shufled'", "Did you mean 'shuffled'?"]),
        (3, ["order=[3]", "lacks 0, 1, 2"]),
    ],
)
def test_an_order_that_is_no_permutation_is_refused(order: object, says: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        class_order(4, order, 0)  # type: ignore[arg-type]
    assert all(part in str(error.value) for part in says), str(error.value)


def test_partition_into_equal_parts_base_and_increments() -> None:
    assert partition(10, 5) == (2,) * 5
    assert partition(10, 1) == (10,)
    assert partition(100, base=50, increment=10) == (50, 10, 10, 10, 10, 10)
    assert partition(100, 10, base=50, increment=10) == (50, 10, 10, 10, 10, 10)
    assert partition(100, 6, base=50) == (50, 10, 10, 10, 10, 10)
    assert partition(10, increment=5) == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"experiences": 3},
            ["experiences=3", "10 classes", "equal", "Use experiences=2", "1, 2, 5, 10"],
        ),
        ({"experiences": 20}, ["experiences=20", "more experiences", "Use experiences=10"]),
        ({"experiences": 0}, ["experiences=0", "at least 1"]),
        ({"experiences": -2}, ["experiences=-2", "at least 1"]),
        ({"experiences": "5"}, ["experiences='5'", "whole number"]),
        ({"experiences": 2.0}, ["experiences=2.0", "whole number"]),
        ({"experiences": True}, ["experiences=True", "whole number"]),
        (
            {"base": 4, "increment": 4},
            ["base=4, increment=4", "6 classes after", "Use increment=3"],
        ),
        ({"base": 4, "increment": 0}, ["increment=0", "at least 1"]),
        ({"base": 10, "increment": 1}, ["base=10", "fewer than the 10 classes", "Use base=5"]),
        ({"base": -1}, ["base=-1", "at least 1"]),
        ({"base": 4, "experiences": 6}, ["base=4, experiences=6", "Use experiences=7"]),
        ({"base": 4, "experiences": 1}, ["base=4, experiences=1", "Use experiences=2"]),
        ({"increment": 3}, ["increment=3", "Use increment=2"]),
        ({"experiences": 4, "key": "tasks"}, ["tasks=4", "Use tasks=5"]),
    ],
)
def test_an_impossible_partition_names_what_works(
    arguments: dict[str, int], says: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        partition(10, **arguments)
    assert all(part in str(error.value) for part in says), str(error.value)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 60), st.integers(0, 60))
def test_a_partition_covers_the_classes_or_is_refused(
    classes: int, experiences: int, base: int, increment: int
) -> None:
    try:
        sizes = partition(classes, experiences, base=base or None, increment=increment or None)
    except ConfigError as error:
        assert "Use " in str(error)
        return
    assert sum(sizes) == classes and min(sizes) > 0
    if base:
        assert sizes[0] == base
    if not increment:
        assert len(sizes) == experiences


def test_groups_are_the_order_in_parts() -> None:
    assert class_groups(4, experiences=2, order=[2, 0, 3, 1]) == ((2, 0), (3, 1))


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 5)
)
def test_every_class_gives_its_share(sizes: list[int], held: float, seed: int) -> None:
    y = torch.cat([torch.full((n,), label) for label, n in enumerate(sizes)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    kept, out = holdout(y, held, seed=seed, purpose="test")
    assert torch.equal(torch.cat([kept, out]).sort().values, torch.arange(len(y)))
    assert torch.equal(kept, kept.sort().values) and torch.equal(out, out.sort().values)
    for label, n in enumerate(sizes):
        assert int((y[out] == label).sum()) == min(max(round(held * n), 1), n - 1)
    again = holdout(y, held, seed=seed, purpose="test")
    assert torch.equal(again[0], kept)


def test_holding_out_nothing_and_of_a_single_sample() -> None:
    y = torch.tensor([0, 1, 1])
    kept, out = holdout(y, 0.0, seed=0, purpose="validation")
    assert kept.tolist() == [0, 1, 2] and not len(out)
    with pytest.raises(DataError, match="validation: class 0 has one sample"):
        holdout(y, 0.5, seed=0, purpose="validation")


def test_the_seed_and_the_purpose_decide_what_is_held_out() -> None:
    y = torch.zeros(100, dtype=torch.long)
    drawn = [
        holdout(y, 0.3, seed=s, purpose=p)[1].tolist() for s, p in [(0, "a"), (1, "a"), (0, "b")]
    ]
    assert drawn[0] != drawn[1] and drawn[0] != drawn[2]


def test_a_limit_caps_each_class() -> None:
    y = torch.tensor([0] * 9 + [1] * 3 + [2] * 20)
    rows = limit_per_class(y, 5, seed=1)
    assert torch.bincount(y[rows]).tolist() == [5, 3, 5]
    assert rows.tolist() == sorted(rows.tolist())
    assert limit_per_class(y, None, seed=1).tolist() == list(range(32))
    assert torch.equal(rows, limit_per_class(y, 5, seed=1))
    assert not torch.equal(rows, limit_per_class(y, 5, seed=2))


def test_single_values_say_what_was_expected() -> None:
    assert whole("n", 3, 1) == 3 and share("s", 0) == 0 and one_of("k", "a", ["a", "b"]) == "a"
    for value, says in [
        (1.0, "val_share=0"),
        (20, "val_share=0.2 for 20 percent"),
        (-0.1, "val_share=0"),
    ]:
        with pytest.raises(
            ConfigError, match=rf"val_share={value}: expected a share in \[0, 1\)"
        ) as e:
            share("val_share", value)
        assert f"Use {says}" in str(e.value)
    for value in (float("nan"), "0.1", True, None):
        with pytest.raises(ConfigError, match="val_share="):
            share("val_share", value)
    with pytest.raises(ConfigError, match="Did you mean 'domain'"):
        one_of("setting", "domian", ["class", "task", "domain"])
