"""The spec's numbers for relearning, censoring, probes and recovery tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clframe.audit import relearn
from clframe.audit.relearn import Anamnesis, RelearnTime
from clframe.errors import ClframeError

CURVES = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=12)


def test_example_7_of_the_spec() -> None:
    assert relearn.anamnesis(RelearnTime(40), RelearnTime(50)) == Anamnesis(0.8)
    unreached = RelearnTime(200, censored=True)
    assert str(relearn.anamnesis(unreached, RelearnTime(50))) == "> 4"
    assert str(unreached) == "> 200"


def test_example_5_of_the_spec_equal_models_have_index_1() -> None:
    curve = [0.1, 0.5, 0.85, 0.9]
    for u, r, index in relearn.anamnesis_by_margin(0.9, curve, curve).values():
        assert u == r and str(index) == "1"


def test_censoring_of_either_or_both() -> None:
    slow = RelearnTime(200, censored=True)
    assert str(relearn.anamnesis(RelearnTime(40), slow)) == "< 0.2"
    both = relearn.anamnesis(slow, slow)
    assert str(both) == "undefined" and "neither" in both.reason and both.value is None
    assert str(relearn.anamnesis(RelearnTime(0), slow)) == "0"
    at_once = relearn.anamnesis(RelearnTime(3), RelearnTime(0))
    assert str(at_once) == "undefined" and "without relearning" in at_once.reason


def test_the_first_step_at_the_target_counts() -> None:
    assert relearn.target(0.5, 0.10) == pytest.approx(0.45), "a share, not points"
    curve = [0.2, 0.82, 0.7, 0.9]
    assert relearn.relearn_time(curve, relearn.target(0.9, 0.10)) == RelearnTime(2)
    assert relearn.relearn_time(curve, relearn.target(0.9, 0.05)) == RelearnTime(4)
    assert relearn.relearn_time(curve, 0.95) == RelearnTime(4, censored=True)
    assert relearn.relearn_time(curve, 0.9, [0, 10, 20, 30]) == RelearnTime(30)
    assert relearn.relearn_time(curve, 0.15, [0, 10, 20, 30]) == RelearnTime(0)
    assert relearn.relearn_time([0.855], relearn.target(0.95, 0.10)) == RelearnTime(1), "rounding"


def test_each_margin_has_its_own_index() -> None:
    found = relearn.anamnesis_by_margin(0.8, [0.5, 0.73, 0.77], [0.1, 0.2, 0.73], [5, 10, 20])
    assert [str(found[0.05][i]) for i in range(3)] == ["20", "> 20", "< 1"]
    assert [str(found[0.1][i]) for i in range(3)] == ["10", "20", "0.5"]


@settings(max_examples=80, deadline=None)
@given(CURVES, st.integers(1, 20).map(lambda n: n / 20))
def test_a_higher_target_takes_no_fewer_steps(curve: list[float], goal: float) -> None:
    found = relearn.relearn_time(curve, goal)
    assert found.censored == (max(curve) < goal)
    assert all(a < goal for a in curve[: found.steps - 1])
    higher = relearn.relearn_time(curve, goal + 0.05)
    assert higher.steps >= found.steps and higher.censored >= found.censored


def blobs(seed: int, apart: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 150)
    return rng.normal(size=(150, 4)) + apart * np.eye(4)[y], y


def test_a_probe_reads_what_features_hold() -> None:
    assert relearn.linear_probe(*blobs(0, 8.0), *blobs(1, 8.0)) > 0.99
    assert relearn.linear_probe(*blobs(0, 0.0), *blobs(1, 0.0)) < 0.5
    (x, y), (tx, ty) = blobs(0, 2.0), blobs(1, 2.0)
    scaled = relearn.linear_probe(1e-4 * x + 5, y, 1e-4 * tx + 5, ty)
    assert scaled == relearn.linear_probe(x, y, tx, ty), "any scale of the features"


X, Y = blobs(0, 1.0)
REFUSED: dict[str, tuple[Any, str]] = {
    "margin": (lambda: relearn.target(0.9, 5), "margin is 5"),
    "percent": (lambda: relearn.target(90, 0.05), "before the request is 90"),
    "empty": (lambda: relearn.relearn_time([], 0.9), "0 accuracies"),
    "steps": (lambda: relearn.relearn_time([0.1, 0.2], 0.9, [1]), "2 accuracies at 1 steps"),
    "order": (lambda: relearn.relearn_time([0.1, 0.2], 0.9, [2, 2]), "rise"),
    "curve": (lambda: relearn.relearn_time([50.0], 0.9), r"100% is 1\.0"),
    "one class": (lambda: relearn.linear_probe(X, Y * 0, X, Y), "two classes"),
    "labels": (lambda: relearn.linear_probe(X, Y, X, Y[:3]), r"labels \(3,\)"),
    "finite": (lambda: relearn.linear_probe(X * np.inf, Y, X, Y), "not finite"),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("call,message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ClframeError, match=message):
        call()
