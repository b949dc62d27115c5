"""The spec's check numbers, agreement with SciPy, and what the statistics promise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clframe.errors import ClframeError
from clframe.evaluation.statistics import (
    Interval,
    Paired,
    bootstrap_iqm,
    holm,
    iqm,
    mean_interval,
    paired,
    prob_greater,
    sign_flip,
)

A = [71.2, 69.8, 72.5, 70.1, 71.9]
B = [69.9, 69.5, 70.2, 70.4, 70.8]
CHECK = settings(max_examples=80, deadline=None)
SCORES = st.integers(0, 1000).map(lambda n: n / 10)
MANY = st.lists(SCORES, min_size=1, max_size=9)


def six(value: float | None) -> str:
    assert value is not None
    return f"{value:.6f}"


def test_check_numbers_of_the_spec() -> None:
    a, b, difference = mean_interval(A), mean_interval(B), paired(A, B)
    assert a is not None and b is not None
    assert (six(a.mean), six(a.half), a.n) == ("71.100000", "1.429263", 5)
    assert (six(b.mean), six(b.half), b.n) == ("70.160000", "0.612079", 5)
    assert (six(difference.mean), six(difference.half)) == ("0.940000", "1.234192")
    assert (six(difference.p_t), six(difference.p_sign_flip)) == ("0.101957", "0.187500")
    assert (six(iqm(A)), six(iqm(B)), six(prob_greater(A, B))) == (
        "71.066667",
        "70.166667",
        "0.720000",
    )


@pytest.mark.parametrize(("n", "quantile"), [(3, 4.303), (5, 2.776), (10, 2.262)])
def test_interval_uses_student_t(n: int, quantile: float) -> None:
    values = list(range(n))
    interval = mean_interval(values)
    assert interval is not None and interval.half is not None
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
    assert interval.half == pytest.approx(half, rel=2e-4)


def test_interval_of_few_values() -> None:
    assert mean_interval([]) is None
    assert mean_interval([None, None]) is None
    assert mean_interval([None, 0.5]) == Interval(0.5, None, 1)
    assert mean_interval([0.5, None, 0.5]) == Interval(0.5, 0.0, 2)


@CHECK
@given(st.lists(SCORES | st.none(), min_size=2, max_size=9), st.sampled_from([0.5, 0.9, 0.95]))
def test_interval_agrees_with_scipy(values: list[float | None], level: float) -> None:
    present = [v for v in values if v is not None]
    interval = mean_interval(values, level)
    if interval is None:
        assert not present
        return
    assert interval.n == len(present)
    assert interval.mean == pytest.approx(float(np.mean(present)))
    if len(set(present)) > 1:
        low, high = stats.t.interval(
            level, len(present) - 1, loc=np.mean(present), scale=stats.sem(present)
        )
        assert interval.half == pytest.approx((high - low) / 2)


def test_pairs_with_a_missing_member_are_dropped() -> None:
    assert paired([*A, None, 90.0, None], [*B, 10.0, None, None]) == paired(A, B)
    assert paired([None, 1.0], [1.0, None]) == Paired(None, None, 0, None, None, None)


def test_a_single_pair_says_nothing() -> None:
    assert paired([0.75], [0.5]) == Paired(0.25, None, 1, 1.0, None, 1.0)


def test_equal_methods_do_not_differ() -> None:
    assert paired(A, A) == Paired(0.0, 0.0, 5, 1.0, None, None)


def test_constant_differences_leave_t_undefined() -> None:
    result = paired([0.3, 0.4, 0.8], [0.2, 0.3, 0.7])
    assert result.p_t is None
    assert result.p_sign_flip == result.p_wilcoxon == 0.25


@CHECK
@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=9))
def test_paired_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    result, difference = paired(a, b), np.array(a) - np.array(b)
    if result.p_t is not None:
        assert result.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
    kept = np.round(difference, 6)
    kept = kept[kept != 0]
    if len(kept) > 1:
        exact = stats.wilcoxon(kept, method=stats.PermutationMethod(n_resamples=1024))
        assert result.p_wilcoxon == pytest.approx(exact.pvalue)
    backwards = paired(b, a)
    assert backwards.p_sign_flip == result.p_sign_flip
    assert backwards.mean == pytest.approx(-float(result.mean or 0))


@CHECK
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_ties_between_decimals_are_ties(pairs: list[tuple[int, int]]) -> None:
    """0.3-0.2 and 0.2-0.1 are one difference to every test, as 3-2 and 2-1 are."""
    whole = paired([x for x, _ in pairs], [y for _, y in pairs])
    tenths = paired([x / 10 for x, _ in pairs], [y / 10 for _, y in pairs])
    assert tenths.p_sign_flip == whole.p_sign_flip
    assert tenths.p_wilcoxon == whole.p_wilcoxon
    assert (tenths.p_t is None) == (whole.p_t is None)


def enumerate_flips(tenths: list[int]) -> float:
    """The sign-flip test in whole numbers, where ties are exact."""
    patterns = list(itertools.product((1, -1), repeat=len(tenths)))
    observed = abs(sum(tenths))
    hits = sum(
        abs(sum(s * d for s, d in zip(signs, tenths, strict=True))) >= observed
        for signs in patterns
    )
    return hits / len(patterns)


@CHECK
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.sampled_from([10.0, 3.0, 7e6]))
def test_sign_flip_counts_every_pattern_and_every_tie(tenths: list[int], scale: float) -> None:
    assert sign_flip([d / scale for d in tenths]) == enumerate_flips(tenths)


def test_sign_flip_sees_ties_through_rounding() -> None:
    rounded = [0.3 - 0.2, 0.2 - 0.1, 0.1 - 0.2]  # 0.1, 0.1, -0.1 but for rounding
    assert len(set(map(abs, rounded))) > 1
    assert sign_flip(rounded) == 1.0


def test_sign_flip_of_few_seeds_cannot_reach_five_percent() -> None:
    assert sign_flip([1.0] * 5) == 0.0625
    assert sign_flip([1.0] * 6) == 0.03125
    assert sign_flip([1.0] * 20) == 2 / 2**20


def test_sign_flip_of_many_seeds_is_drawn_and_repeatable() -> None:
    rng = np.random.default_rng(3)
    d = [*rng.normal(0.3, 1, size=30)]
    p = sign_flip(d)
    assert p == sign_flip(d)
    normal = 2 * stats.norm.sf(abs(sum(d)) / math.sqrt(sum(x * x for x in d)))
    assert p == pytest.approx(normal, abs=0.01)
    assert 0 < sign_flip([1.0] * 40) < 2e-5
    assert sign_flip([0.0] * 40) == 1.0


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.4]) == [0.8, None, 0.8]
    assert holm([None]) == [None]
    assert holm([]) == []


@CHECK
@given(st.lists(st.floats(0, 1) | st.none(), max_size=8))
def test_holm_only_raises_and_keeps_order(ps: list[float | None]) -> None:
    both = [(p, q) for p, q in zip(ps, holm(ps), strict=True) if p is not None and q is not None]
    assert all(p <= q <= 1 for p, q in both)
    assert [q for _, q in sorted(both)] == sorted(q for _, q in both)
    assert len(both) == sum(p is not None for p in ps)
    if both:
        smallest = min(p for p, _ in both)
        assert min(q for _, q in both) == pytest.approx(min(1, len(both) * smallest))


@CHECK
@given(MANY)
def test_iqm_cuts_a_quarter_at_each_end(values: list[float]) -> None:
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    assert iqm(values) == pytest.approx(sum(middle) / len(middle))
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_iqm_pools_a_matrix() -> None:
    assert iqm([[0.1, 0.9], [0.3, 0.2], [0.8, 0.4]]) == pytest.approx((0.2 + 0.3 + 0.4 + 0.8) / 4)
    holed: list[list[float | None]] = [[0.1, None], [0.3, 0.2]]
    assert iqm(holed) == pytest.approx(0.2)


def test_bootstrap_brackets_the_iqm_and_repeats() -> None:
    matrix = np.random.default_rng(0).uniform(size=(8, 3))
    low, high = bootstrap_iqm(matrix)
    assert low < iqm(matrix) < high
    assert bootstrap_iqm(matrix) == (low, high)
    assert bootstrap_iqm(matrix, seed=1) != (low, high)
    assert bootstrap_iqm(matrix, seed=1) == pytest.approx((low, high), abs=0.01)


def test_bootstrap_resamples_seeds_within_a_benchmark() -> None:
    """Seeds agree but benchmarks differ: nothing varies, so the interval has no width."""
    assert bootstrap_iqm([[0.2, 0.6, 0.7, 0.9]] * 4, 1000) == pytest.approx((0.65, 0.65))


def test_bootstrap_interval_of_two_seeds_is_exact() -> None:
    """One benchmark, seeds 0 and 1: resampled means are 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    assert bootstrap_iqm([[0.0], [1.0]], 10_000) == (0.0, 1.0)


@CHECK
@given(MANY, MANY)
def test_prob_greater_is_mann_whitney(a: list[float], b: list[float]) -> None:
    u = stats.mannwhitneyu(a, b, method="asymptotic").statistic
    assert prob_greater(a, b) == pytest.approx(u / (len(a) * len(b)))
    assert prob_greater(a, b) + prob_greater(b, a) == pytest.approx(1)


def test_prob_greater_averages_over_benchmarks() -> None:
    assert prob_greater([[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]) == 0.625
    assert prob_greater([1.0, None], [1.0]) == 0.5


REFUSED: dict[str, tuple[Any, str]] = {
    "level": (lambda: mean_interval([1.0, 2.0], 95), "level is 95"),
    "NaN": (lambda: mean_interval([1.0, math.nan]), "finite"),
    "unequal pairs": (lambda: paired([1.0], [1.0, 2.0]), r"differ in number \(1 and 2\)"),
    "no difference": (lambda: sign_flip([None]), "at least one"),
    "p above 1": (lambda: holm([0.1, 1.5]), "p value 1 is 1.5"),
    "empty": (lambda: iqm([]), "no score"),
    "empty benchmark": (lambda: bootstrap_iqm([[0.1, None], [0.2, None]]), "benchmark 1"),
    "ragged": (lambda: iqm([[0.1], [0.2, 0.3]]), "differ in length"),
    "no replicates": (lambda: bootstrap_iqm([0.1, 0.2], 0), "replicates is 0"),
    "other benchmarks": (lambda: prob_greater([[1.0]], [[1.0, 2.0]]), "1 and 2 benchmarks"),
}


@pytest.mark.parametrize("call,message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ClframeError, match=message):
        call()
