"""The worked example, key by key, the corners it leaves out, and arguments that are refused."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow_metrics import differences

from clframe.evaluation.metrics import TraceError, lifelong, sizes_of, summarize

EXAMPLE = json.loads((Path(__file__).parent / "metrics_example.json").read_text())
ROWS = [tuple(row) for row in EXAMPLE["rows"]]
SINGLE = [(0, 0, 0, 0.1), (1, 0, 0, 0.5), (2, 0, 0, 0.4), (3, 0, 0, 0.9)]


@pytest.mark.parametrize("key", EXAMPLE["expected"])
def test_worked_example(key: str) -> None:
    got = summarize(ROWS, **EXAMPLE["refs"])
    assert differences(got[key], EXAMPLE["expected"][key], key) == []


def test_worked_example_has_these_keys_and_no_others() -> None:
    assert differences(summarize(ROWS, **EXAMPLE["refs"]), EXAMPLE["expected"]) == []
    lifelong_keys = lifelong(ROWS, expert=EXAMPLE["expert"])
    assert differences(lifelong_keys, EXAMPLE["expected_lifelong"]) == []


def test_result_is_plain_json_in_every_shape_of_input() -> None:
    array = np.array(ROWS)
    results = [summarize(r) for r in (ROWS, tuple(ROWS), iter(ROWS), array, array.tolist())]
    for result in results:
        assert result == results[0]
        assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert lifelong(iter(ROWS)) == lifelong(array)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("joint_prefix", "intransigence"),
        ("joint_all", "forgetting_ratio"),
        ("independent", "fwt_vs_independent"),
    ],
)
def test_a_reference_adds_its_key_and_only_that(given: str, key: str) -> None:
    plain, more = set(summarize(ROWS)), set(summarize(ROWS, **{given: EXAMPLE["refs"][given]}))
    assert more - plain == {key}
    assert plain < more


def test_pooled_accuracy_counts_samples() -> None:
    """By hand: 3 of 4 and then 1 of 1 are 4 of 5, of which the mean over experiences says 7/8."""
    rows = [(1, 0, 0, 0.5), (2, 1, 0, 0.75), (2, 1, 1, 1.0)]
    result = summarize(rows, sizes=[4, 1])
    assert result["pooled_acc_by_boundary"] == pytest.approx([0.5, 0.8])
    assert result["pooled_acc_final"] == pytest.approx(0.8) and result["acc_final"] == 0.875
    assert result["avg_incremental_pooled_acc"] == pytest.approx(0.65)
    assert "pooled_acc_final" not in summarize(rows)
    with pytest.raises(TraceError, match="sizes has 3 values for 2 experiences"):
        summarize(rows, sizes=[4, 1, 1])


def test_samples_are_pooled_where_each_is_in_one_experience() -> None:
    experiences = [
        {"index": 0, "classes": [0, 1], "eval_size": 10},
        {"index": 1, "classes": [], "eval_size": 0},
        {"index": 2, "classes": [1, 2], "eval_size": 30},
    ]
    described = {"setting": "domain", "experiences": experiences}
    assert sizes_of(described, [0, 2]) == [10, 30]
    assert sizes_of(described | {"setting": "class"}, [0, 2]) is None
    assert sizes_of(described | {"setting": "class"}, [2]) == [30]


def test_a_reference_with_a_hole_is_undefined() -> None:
    result = summarize(
        ROWS,
        joint_prefix=[0.8, None, 0.9],
        joint_all=[0.8, 0.8, None],
        independent=[None, 0.7, 0.7],
    )
    assert result["intransigence"] is None
    assert result["forgetting_ratio"] is None
    assert result["fwt_vs_independent"] == pytest.approx((0.08 + 0.15) / 2)


def test_forgetting_ratio_is_undefined_where_joint_gains_nothing() -> None:
    assert summarize(ROWS, joint_all=[0.1, 0.8, 0.9])["forgetting_ratio"] is None


def test_standard_windows_and_betas_are_always_there() -> None:
    bare = summarize(ROWS, windows=(), betas=())
    assert list(bare["wf"]) == ["10", "100"] == list(bare["wp_per_task"])
    assert list(bare["lca_agem"]) == ["10"] == list(bare["lca_first_evals"])
    more = summarize(ROWS, windows=(2, 200, 10), betas=(1,))
    assert list(more["wf_per_task"]) == ["2", "10", "100", "200"]
    assert list(more["lca_agem"]) == ["1", "10"]


def test_a_single_experience_has_no_gap_and_nothing_to_forget() -> None:
    result = summarize(SINGLE, joint_prefix=[0.8], joint_all=[0.9], independent=[0.7])
    null = (
        "gap forg_final min_acc_final bwt bwt_triangular remembering positive_bwt "
        "forgetting_chaudhry forgetting_incl_final fwt fwt_triangular fwt_vs_independent"
    )
    assert {key for key, value in result.items() if value is None} == set(null.split())
    assert result["forg_by_boundary"] == result["min_acc_by_boundary"] == [None]
    assert result["min_acc_curve"] == [None] * 3
    assert result["min_acc_per_task"] == result["fwt_per_task"] == []
    assert result["wc_acc_curve"] == result["aa_curve"] == [0.5, 0.4, 0.9]
    assert result["wp_per_task"]["10"] == [pytest.approx(0.8)]  # from t=0 on
    assert result["intransigence"] == pytest.approx(-0.1)
    assert result["forgetting_ratio"] == pytest.approx(0.0)


def test_a_request_is_a_stage_in_which_nothing_is_learnt() -> None:
    """By hand: L0 L1 U0 L2 and a request for a few samples; held are positions 1 and 3."""
    zero = [(1, 0, 0, 0.9), (2, 1, 0, 0.8)]
    one = [(2, 1, 0.8), (3, 2, 0.5), (4, 2, 0.6), (5, 3, 0.4), (6, 3, 0.7), (7, 4, 0.6)]
    three = [(0, 0, 0.2), (4, 2, 0.3), (5, 3, 0.5), (6, 3, 1.0), (7, 4, 0.9)]
    rows = [*zero, *((t, e, 1, a) for t, e, a in one), *((t, e, 3, a) for t, e, a in three)]
    result = summarize(rows, kept=[1, 3], requests=[2, 4], sizes=[10, 30])
    hand = {
        "n_experiences": 2,
        "stages": [1, 2, 3, 4],
        "kept": [1, 3],
        "boundaries": [2, 4, 6, 7],
        "R": [[0.8, None], [0.6, 0.3], [0.7, 1.0], [0.6, 0.9]],
        "learning_acc": 0.9,
        "acc_by_boundary": [0.8, 0.6, 0.85, 0.75],
        "forg_by_boundary": [None, 0.2, 0.1, 0.15],
        "bwt": -0.15,
        "min_acc_per_task": [0.4, 0.9],
        "min_acc_curve": [None, 0.5, 0.5, 0.4, 0.4, 0.65],
        "wc_acc_curve": [0.8, 0.5, 0.5, 0.45, 0.7, 0.65],
        "aa_curve": [0.8, 0.5, 0.6, 0.45, 0.85, 0.75],
        "avg_anytime_acc": (0.8 + 0.45 + 0.85) / 3,
        "forgetting_chaudhry": (0.2 + 0.1) / 2,
        "fwt": 0.3 - 0.2,
        "pooled_acc_final": (0.6 * 10 + 0.9 * 30) / 40,
    }
    for key, value in hand.items():
        assert differences(result[key], value, key) == []
    dips = {name: dip["depth"] for name, dip in result["gap"]["pairs"].items()}
    assert differences(dips, {"2->3|1": 0.2}) == [], "a request is no switch"
    plain = summarize(rows, kept=[1, 3])["gap"]["pairs"]
    dips = {name: dip["depth"] for name, dip in plain.items()}
    assert differences(dips, {"1->2|1": 0.3, "2->3|1": 0.2, "3->4|1": 0.1, "3->4|3": 0.1}) == []


@pytest.mark.parametrize(
    ("kept", "says"),
    [([], "one at least"), ([1, 0], "in the stream's order"), ([0, 7], "7 was never learnt")],
)
def test_what_is_kept_has_been_learnt(kept: list[int], says: str) -> None:
    with pytest.raises(TraceError, match=says):
        summarize(ROWS, kept=kept)


def test_boundaries_alone_are_a_trace() -> None:
    """t=0 and the end of each experience, as `eval.rho: 0` and `boundary.parquet` give."""
    full = summarize(ROWS)
    result = summarize([row for row in ROWS if row[0] in (0, 4, 8, 12)])
    for key in ("R", "init_acc", "boundaries", "acc_by_boundary", "bwt", "fwt", "learning_acc"):
        assert result[key] == full[key]
    assert result["eval_iterations"] == [4, 8, 12]
    assert result["min_acc_curve"] == [None, 0.83, pytest.approx((0.71 + 0.8) / 2)]
    assert result["gap"]["pairs"]["1->2|0"] == {
        "depth": pytest.approx(0.12),
        "depth_rel": pytest.approx(0.12 / 0.83),
        "time_to_min": 4,
        "regain": 0.0,
        "area": pytest.approx(0.48),
        "area_norm": pytest.approx(0.12),
        "recovery_time": {"0.9": None, "0.95": None, "1.0": None},
    }
    assert result["lca_agem"]["10"] is None


def test_without_a_row_at_zero() -> None:
    result = summarize([r for r in ROWS if r[0] > 0], joint_all=EXAMPLE["refs"]["joint_all"])
    assert result["init_acc"] == [None] * 3
    assert result["fwt_per_task"] == [None, None]
    assert result["fwt"] is result["forgetting_ratio"] is result["lca_agem"]["3"] is None
    assert result["fwt_triangular"] == pytest.approx(0.14)
    assert result["wp_per_task"]["10"][0] == pytest.approx(0.43)
    moves = lifelong([r for r in ROWS if r[0] > 0])
    assert moves["ft"]["0->1"] == {"ratio": None, "contrast": None}
    assert moves["ft_ratio_mean"] == moves["ft"]["1->2"]["ratio"] == pytest.approx(0.15 / 0.11)


def test_with_some_rows_at_zero() -> None:
    partial = [r for r in ROWS if r[:3] not in ((0, 0, 0), (0, 0, 1))]
    result = summarize(partial)
    assert result["init_acc"] == [None, None, 0.08]
    assert result["fwt_per_task"] == [None, pytest.approx(0.07)]
    assert result["fwt"] is None
    assert result["lca_first_evals"]["3"] == pytest.approx((1.77 / 3 + 0.55 + 1.9 / 3) / 3)


def test_without_unseen_rows() -> None:
    seen = [r for r in ROWS if r[2] <= r[1]]
    result, full = summarize(seen), summarize(ROWS)
    assert result["R"] == [[0.8, None, None], [0.83, 0.78, None], [0.71, 0.8, 0.85]]
    assert result["stream_acc_by_boundary"] == [None, None, pytest.approx(2.36 / 3)]
    assert result["fwt"] is result["fwt_triangular"] is result["lca_agem"]["3"] is None
    for key in ("min_acc_curve", "wc_acc_curve", "wf", "wp", "gap", "bwt", "avg_anytime_acc"):
        assert result[key] == full[key]


def test_order_of_rows_does_not_matter() -> None:
    rows, refs = list(ROWS), EXAMPLE["refs"]
    random.Random(0).shuffle(rows)
    assert summarize(rows, **refs) == summarize(ROWS, **refs)
    assert lifelong(rows, expert=EXAMPLE["expert"]) == lifelong(ROWS, expert=EXAMPLE["expert"])


def test_relative_depth_of_nothing_is_undefined() -> None:
    result = summarize([(1, 0, 0, 0.0), (2, 1, 0, 0.0), (2, 1, 1, 0.5)])
    dip = result["gap"]["pairs"]["0->1|0"]
    assert dip["depth_rel"] is None and dip["recovery_time"] == {"0.9": 0, "0.95": 0, "1.0": 0}
    assert result["gap"]["depth_rel_mean"] is None
    assert result["gap"]["depth_mean"] == 0.0


def test_recovery_forgives_rounding() -> None:
    """0.9 * 0.07 comes out above 0.063, yet 0.063 has recovered to 0.9 of 0.07."""
    rows = [(1, 0, 0, 0.07), (2, 1, 0, 0.02), (3, 1, 0, 0.063)] + [(t, 1, 1, 0.5) for t in (2, 3)]
    assert 0.063 < 0.9 * 0.07
    assert summarize(rows)["gap"]["pairs"]["0->1|0"]["recovery_time"]["0.9"] == 2


def test_plasticity_counts_rises_the_reference_code_misses() -> None:
    """A rise in the last evaluations, with no new window maximum before it."""
    rows = [(t, 0, 0, a) for t, a in enumerate([0.9, 0.1, 0.2, 0.6], start=1)]
    assert summarize(rows)["wp_per_task"]["10"] == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"joint_prefix": [0.8, 0.8]}, "joint_prefix has 2 values for 3"),
        ({"joint_all": [0.8, 0.8, 80.0]}, r"joint_all\[2\] is 80"),
        ({"independent": [0.8, math.nan, 0.8]}, r"independent\[1\] is nan"),
        ({"windows": (0,)}, "windows"),
        ({"windows": (2.5,)}, "windows"),
        ({"betas": (-3,)}, "betas"),
    ],
)
def test_a_bad_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        summarize(ROWS, **arguments)


def test_a_beta_beyond_the_run_is_cheap() -> None:
    assert summarize(ROWS, betas=(10**15,))["lca_agem"][str(10**15)] is None
