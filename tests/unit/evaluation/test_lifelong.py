"""Transfer, upkeep and sample efficiency: the worked example, and the corners it leaves out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow_metrics import differences

from clframe.evaluation.metrics import TraceError, lifelong

EXAMPLE = json.loads((Path(__file__).parent / "metrics_example.json").read_text())
ROWS = [tuple(row) for row in EXAMPLE["rows"]]
SINGLE = [(1, 0, 0, 0.5), (2, 0, 0, 0.4), (3, 0, 0, 0.9)]


@pytest.mark.parametrize("key", EXAMPLE["expected_lifelong"])
def test_worked_example_of_lifelong_learning(key: str) -> None:
    got = lifelong(ROWS, expert=EXAMPLE["expert"])
    assert differences(got[key], EXAMPLE["expected_lifelong"][key], key) == []


def test_expert_keys_need_an_expert() -> None:
    keys = set(lifelong(ROWS, expert=EXAMPLE["expert"])) - set(lifelong(ROWS))
    assert keys == {"rp", "rp_per_task", "se", "se_per_task"}


def test_a_single_experience_has_no_transfer() -> None:
    result = lifelong(SINGLE, expert=[[0.2, 0.3, 0.6]])
    assert result["pm_per_task"] == [] and result["pm"] is None
    assert result["ft"] == result["bt"] == {}
    assert result["ft_ratio_mean"] is result["bt_contrast_mean"] is None
    assert result["rp"] == pytest.approx(1.8 / 1.1)
    assert result["se"] == pytest.approx(0.9 / 0.6)


def run(curve: list[float]) -> list[tuple[int, int, int, float]]:
    return [(t, 0, 0, a) for t, a in enumerate(curve, start=1)]


@pytest.mark.parametrize(
    ("agent", "expert", "expected"),
    [
        ([0.2, 0.4, 0.8], [0.5, 0.6, 0.4], (0.8 / 0.6) * (1 / 2)),
        ([0.8, 0.4, 0.2], [0.5, 0.6, 0.4], None),  # starts at its best
        ([0.2, 0.4, 0.8], [0.6, 0.5, 0.4], None),  # the expert does
        ([0.2, 0.4, 0.8], [0.0, 0.0, 0.0], None),  # the expert never learns
        ([0.6, 0.7, 0.1], [0.5, 0.6, 0.4], 0.0),  # gets worse
        ([0.1, 0.12, 0.14], [0.2, 0.8, 0.4], 0.0),  # below a fifth of the expert
        ([0.1, 0.12, 0.15], [0.2, 0.75, 0.4], 0.1),  # exactly a fifth, rounding aside
        ([0.4], [0.5, 0.6, 0.4], None),
        ([0.2, 0.4, 0.8], [], None),
    ],
)
def test_sample_efficiency(agent: list[float], expert: list[float], expected: float | None) -> None:
    result = lifelong(run(agent), expert=[expert])
    assert result["se_per_task"] == [expected if expected is None else pytest.approx(expected)]


def test_sample_efficiency_smooths_long_curves() -> None:
    """15 evaluations: a window of 3 over positions j-2..j, so a spike of one counts a third."""
    agent = [0.1] * 7 + [0.7] + [0.1] * 6 + [0.2]
    expert = [0.1] * 10 + [0.4, 0.4, 0.4, 0.1, 0.1]
    result = lifelong(run(agent), expert=[expert])
    assert result["se"] == pytest.approx((0.3 / 0.4) * (12 / 7))
    assert result["rp"] == pytest.approx(sum(agent) / sum(expert))  # not smoothed


def test_smoothing_mirrors_the_ends() -> None:
    """Position 1 averages positions -1, 0 and 1, and -1 mirrors 1."""
    agent = [0.1, 0.7] + [0.0] * 5 + [0.4] * 8
    result = lifelong(run(agent), expert=[[0.0] * 8 + [0.4] * 7])
    assert result["se"] == pytest.approx((1.5 / 3 / 0.4) * (10 / 1))


def test_saturation_is_first_reached_rounding_aside() -> None:
    """A window of 3 over a pattern of 3 averages to one value, in three orders of addition."""
    curve = [0.0] * 6 + [0.1, 0.5, 0.7] * 3
    result = lifelong(run(curve), expert=[[0.0] * 8 + [0.4] * 7])
    assert result["se"] == pytest.approx((1.3 / 3 / 0.4) * (10 / 8))


def test_several_experts_give_the_mean_of_the_metric() -> None:
    agent = run([0.2, 0.4, 0.8])
    one, two = [0.5, 0.6, 0.4], [0.1, 0.3, 0.4]
    both = lifelong(agent, expert=[[one, two]])
    alone = [lifelong(agent, expert=[curve]) for curve in (one, two)]
    for key in ("rp", "se"):
        assert both[key] == pytest.approx((alone[0][key] + alone[1][key]) / 2)
    assert lifelong(agent, expert=[np.array([one, two])]) == both


def test_a_missing_expert_is_skipped_in_the_mean() -> None:
    result = lifelong(ROWS, expert=[EXAMPLE["expert"][0], None, EXAMPLE["expert"][2]])
    assert result["rp_per_task"] == [1.0, None, pytest.approx(0.961538461538)]
    assert result["rp"] == pytest.approx((1 + 0.961538461538) / 2)


def test_an_expert_is_cut_to_the_shorter_curve() -> None:
    result = lifelong(run([0.2, 0.4, 0.8]), expert=[[0.5, 0.5]])
    assert result["rp"] == pytest.approx(0.6)
    assert lifelong(run([0.2]), expert=[[0.0, 0.5]])["rp"] is None


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        ([[0.5]], "expert has 1 entries for 3"),
        ([[0.5], [0.5, 1.5], None], "experience 1"),
        ([[0.5], [0.5, None], None], "experience 1"),
        ([0.5, 0.5, 0.5], "experience 0"),
        ([["high"], None, None], "experience 0"),
        ([[[0.5], [math.inf]], None, None], "experience 0"),
    ],
)
def test_a_bad_expert_is_refused(expert: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        lifelong(ROWS, expert=expert)
