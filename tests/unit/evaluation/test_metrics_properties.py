"""Random streams, odd schedules: the fast metrics equal the slow ones and keep their promises."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import slow_lifelong
import slow_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_metrics import differences

from clframe.evaluation.metrics import lifelong, summarize

Row = tuple[int, int, int, float]
COARSE = st.integers(0, 10).map(lambda n: n / 10)  # many ties
FINE = st.integers(0, 9973).map(lambda n: n / 9973)  # shares of a test set: few ties
CHECK = settings(max_examples=150, deadline=None)


@st.composite
def schedules(draw: st.DrawFn) -> list[list[int]]:
    """Evaluated iterations of each experience: every rho-th and the last, or any at all."""
    schedule, t = [], 0
    rho = draw(st.sampled_from([1, 1, 2, 3, 5, 100]))
    regular = draw(st.booleans())
    for _ in range(draw(st.integers(1, 4))):
        updates = draw(st.integers(1, draw(st.sampled_from([1, 6, 18]))))
        if regular:
            chosen = sorted({*range(1, updates + 1, rho), updates})
        else:
            chosen = sorted(draw(st.sets(st.integers(1, updates), min_size=1)))
        schedule.append([t + j for j in chosen])
        t += updates
    return schedule


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """A valid trace, in time order."""
    schedule = draw(schedules())
    num = len(schedule)
    accuracy = draw(st.sampled_from([COARSE, FINE]))
    untouched = draw(st.sampled_from(["all", "some", "none"]))
    unseen = draw(st.sampled_from(["all", "some", "none", "boundaries"]))
    rows = []
    for t, e in [(0, 0), *((t, k) for k, times in enumerate(schedule) for t in times)]:
        for i in range(num):
            wanted = untouched if t == 0 else "all" if i <= e else unseen
            at_boundary = wanted == "boundaries" and t == schedule[e][-1]
            if wanted == "all" or at_boundary or (wanted == "some" and draw(st.booleans())):
                rows.append((t, e, i, draw(accuracy)))
    return rows


def num_of(rows: list[Row]) -> int:
    return 1 + max(e for _, e, _, _ in rows)


def references(num: int) -> st.SearchStrategy[Any]:
    cells = st.lists(st.one_of(COARSE, COARSE, FINE, st.none()), min_size=num, max_size=num)
    names = ("joint_prefix", "joint_all", "independent")
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, cells))


@CHECK
@given(st.data(), streams())
def test_equals_the_slow_metrics(data: st.DataObject, rows: list[Row]) -> None:
    asked = {
        **data.draw(references(num_of(rows))),
        "windows": data.draw(st.sets(st.integers(1, 20), max_size=3)),
        "betas": data.draw(st.sets(st.integers(1, 8), max_size=3)),
    }
    assert differences(summarize(rows, **asked), slow_metrics.summarize(rows, **asked)) == []


@CHECK
@given(st.data(), streams())
def test_equals_the_slow_metrics_of_what_is_kept(data: st.DataObject, rows: list[Row]) -> None:
    """Of any experiences, wherever what does not count is: before them, between, behind."""
    every = range(num_of(rows))
    kept = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    others = sorted({*every} - {*kept})
    requests = data.draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    asked = {"kept": kept, "requests": requests, "betas": (1, 3)}
    asked |= data.draw(references(len(kept)))
    assert differences(summarize(rows, **asked), slow_metrics.summarize(rows, **asked)) == []
    whole = summarize(rows, kept=every)
    assert whole == summarize(rows) | {"stages": [*every], "kept": [*every]}


@CHECK
@given(st.data(), streams())
def test_equals_the_slow_lifelong_metrics(data: st.DataObject, rows: list[Row]) -> None:
    accuracy = data.draw(st.sampled_from([COARSE, FINE]))
    curve = st.lists(accuracy, max_size=24)
    runs = st.lists(curve, max_size=2)
    num = num_of(rows)
    expert = data.draw(st.none() | st.lists(runs, min_size=num, max_size=num))
    given_expert: Any = expert and [curves or None for curves in expert]
    got, want = lifelong(rows, expert=given_expert), slow_lifelong.lifelong(rows, expert=expert)
    assert differences(got, want) == []


@CHECK
@given(streams(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows: list[Row], rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    assert summarize(shuffled) == summarize(rows)
    assert lifelong(shuffled) == lifelong(rows)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from leaves(member)
    else:
        yield value


@CHECK
@given(streams())
def test_invariants(rows: list[Row]) -> None:
    result = summarize(rows)
    tiny = 1e-12
    for worst, average in zip(result["wc_acc_curve"], result["aa_curve"], strict=True):
        assert -tiny <= worst <= average + tiny
    for acc, low in zip(result["acc_by_boundary"], result["wc_acc_by_boundary"], strict=True):
        assert low <= acc + tiny
    for change in ("wf", "wp"):
        by_window = [result[change][w] for w in ("3", "10", "100")]
        assert by_window == sorted(by_window) and by_window[0] >= 0
    if result["n_experiences"] > 1:
        assert result["bwt"] == pytest.approx(-result["forg_final"], abs=1e-12)
        assert result["forgetting_incl_final"] >= max(0, result["forgetting_chaudhry"]) - tiny
        fractions = [result["gap"]["recovered_fraction"][x] for x in ("1.0", "0.95", "0.9")]
        assert fractions == sorted(fractions)
    assert all(v is None or (type(v) in (int, float) and math.isfinite(v)) for v in leaves(result))


@CHECK
@given(streams())
def test_extra_unseen_rows_change_only_transfer(rows: list[Row]) -> None:
    """What is recorded of experiences to come never moves what is said of those seen."""
    seen = summarize([r for r in rows if r[2] <= r[1] or r[0] == 0])
    transfer = {"R", "stream_acc_by_boundary", "fwt", "fwt_per_task", "fwt_triangular", "lca_agem"}
    full = summarize(rows)
    assert {k: v for k, v in full.items() if k not in transfer} == {
        k: v for k, v in seen.items() if k not in transfer
    }


@CHECK
@given(streams(), st.integers(1, 5))
def test_stretching_time_stretches_durations_only(rows: list[Row], factor: int) -> None:
    """Evaluating the same curve at `factor` times the iterations scales times and areas."""
    one, more = summarize(rows), summarize([(factor * t, e, i, a) for t, e, i, a in rows])
    for key in ("R", "min_acc_curve", "wc_acc_curve", "wf", "wp", "lca_first_evals"):
        assert one[key] == more[key]
    if one["gap"]:
        for name in ("area", "time_to_min"):
            scaled = factor * one["gap"][f"{name}_mean"]
            assert more["gap"][f"{name}_mean"] == pytest.approx(scaled)
        for name in ("depth", "area_norm", "regain"):
            same = pytest.approx(one["gap"][f"{name}_mean"])
            assert more["gap"][f"{name}_mean"] == same
