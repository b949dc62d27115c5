"""Statistics over seeds: intervals, paired tests, aggregates over benchmarks.

The unit is the seed. "±" is always the half-width of a 95% interval, not a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped, unused-ignore]

from clframe.errors import ClframeError

Values = Sequence[float | None] | npt.NDArray[np.float64]
Scores = Values | Sequence[Values]
Floats = npt.NDArray[np.float64]

EXACT_UP_TO = 20
DRAWS = 100_000
_CHUNK = 5_000
_TIE = 1e-9  # relative: differences of decimals such as 0.3-0.2 and 0.2-0.1 are one value


class Interval(NamedTuple):
    """A mean over n seeds and the half-width of its t interval; None when n < 2."""

    mean: float
    half: float | None
    n: int


class Paired(NamedTuple):
    """A mean difference over n complete pairs, its interval, and p values; None where undefined."""

    mean: float | None
    half: float | None
    n: int
    p_sign_flip: float | None
    p_t: float | None
    p_wilcoxon: float | None


def mean_interval(values: Values, level: float = 0.95) -> Interval | None:
    """Mean and Student t interval over the defined values; None when there are none."""
    if not 0 < level < 1:
        raise ClframeError(f"level is {level!r}; expected a share between 0 and 1, such as 0.95")
    x = _defined(values)
    if len(x) == 0:
        return None
    mean = math.fsum(x) / len(x)
    if len(x) == 1:
        return Interval(mean, None, 1)
    quantile = float(stdtrit(len(x) - 1, (1 + level) / 2))
    return Interval(mean, quantile * float(np.std(x, ddof=1)) / math.sqrt(len(x)), len(x))


def paired(a: Values, b: Values) -> Paired:
    """Compare two methods over shared seeds: a minus b, dropping pairs with a missing member.

    The Wilcoxon p value is exact too, also with ties: zeros are dropped, ties share a mean rank,
    and the signs of the ranks are flipped.
    """
    if len(a) != len(b):
        raise ClframeError(
            f"paired values differ in number ({len(a)} and {len(b)}); give one a seed, in one order"
        )
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    d = _defined([x for x, _ in pairs]) - _defined([y for _, y in pairs])
    interval = mean_interval(d)
    if interval is None:
        return Paired(None, None, 0, None, None, None)
    ranks = _signed_ranks(d)
    wilcoxon = sign_flip(ranks) if len(ranks) else None
    return Paired(*interval, sign_flip(d), _t_test(d), wilcoxon)


def sign_flip(differences: Values) -> float:
    """Two-sided p value of the mean difference when every sign is as likely as its opposite.

    Exact over all 2^n patterns up to n = 20, ties with the observed mean counting. Above that,
    Monte Carlo: (1 + hits) / (1 + draws) over 100,000 patterns from a fixed seed, so the same
    differences always give the same p, with a standard error of at most 0.0016.
    """
    d = _defined(differences)
    if len(d) == 0:
        raise ClframeError("a sign-flip test needs at least one difference; got none")
    least = abs(float(d.sum())) - _TIE * float(np.abs(d).sum())
    if len(d) <= EXACT_UP_TO:
        sums = d[:1]  # the other half of the patterns mirrors this one
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= least))
    rng, hits = np.random.default_rng(0), 0
    for _ in range(DRAWS // _CHUNK):
        signs = rng.integers(0, 2, size=(_CHUNK, len(d))) * 2 - 1
        hits += int(np.count_nonzero(np.abs(signs @ d) >= least))
    return (1 + hits) / (1 + DRAWS)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p values of one table and metric; None is no test and does not count."""
    tests = sorted((p, at) for at, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, at) in enumerate(tests):
        if not 0 <= p <= 1:
            raise ClframeError(f"p value {at} is {p!r}; expected a number from 0 to 1")
        highest = max(highest, min(1.0, (len(tests) - rank) * p))
        adjusted[at] = highest
    return adjusted


def iqm(values: Scores) -> float:
    """Interquartile mean: all entries but the lowest and the highest quarter, rounded down."""
    return float(_middle_mean(np.concatenate(_columns(values))))


def bootstrap_iqm(matrix: Scores, replicates: int = 50_000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the IQM of a matrix seeds x benchmarks.

    Seeds are resampled for each benchmark on its own, from a fixed `seed`. None entries are left
    out of their benchmark. Below about 5 seeds the interval is too narrow: say so beside it.
    """
    if replicates < 1:
        raise ClframeError(f"replicates is {replicates}; a bootstrap needs at least 1")
    columns, rng = _columns(matrix), np.random.default_rng(seed)
    centres = []
    for begin in range(0, replicates, _CHUNK):
        num = min(_CHUNK, replicates - begin)
        draws = [c[rng.integers(0, len(c), size=(num, len(c)))] for c in columns]
        centres.append(_middle_mean(np.concatenate(draws, axis=1)))
    low, high = np.percentile(np.concatenate(centres), [2.5, 97.5])
    return float(low), float(high)


def prob_greater(a: Scores, b: Scores) -> float:
    """P(A > B): how often a seed of A beats a seed of B, ties half; mean over benchmarks if 2-D."""
    ours, theirs = _columns(a), _columns(b)
    if len(ours) != len(theirs):
        raise ClframeError(
            f"a and b cover {len(ours)} and {len(theirs)} benchmarks; compare them on the same ones"
        )
    wins = [
        float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))
        for x, y in zip(ours, theirs, strict=True)
    ]
    return math.fsum(wins) / len(wins)


def _defined(values: Values) -> Floats:
    """The values that are not None, which must be finite."""
    x = np.array([v for v in values if v is not None], dtype=np.float64)
    if not np.isfinite(x).all():
        raise ClframeError(f"values must be finite, None where undefined; got {x.tolist()}")
    return x


def _columns(scores: Scores) -> list[Floats]:
    """The defined scores of each benchmark; a flat sequence is one benchmark."""
    rows: list[Any] = list(scores)  # numbers, or rows of numbers
    flat = all(row is None or np.ndim(row) == 0 for row in rows)
    if not flat and len({len(row) for row in rows}) != 1:
        raise ClframeError(
            "rows of a matrix seeds x benchmarks differ in length; write None for a missing score"
        )
    columns = [rows] if flat else list(zip(*rows, strict=True))
    defined = [_defined(column) for column in columns]
    for at, column in enumerate(defined):
        if len(column) == 0:
            raise ClframeError(f"benchmark {at} has no score; leave it out of the aggregate")
    return defined


def _middle_mean(values: Floats) -> Floats:
    """IQM along the last axis."""
    num = values.shape[-1]
    cut = num // 4
    middle: Floats = np.sort(values, axis=-1)[..., cut : num - cut].mean(axis=-1)
    return middle


def _t_test(d: Floats) -> float | None:
    """Two-sided p of Student's t; None when differences do not vary, which leaves t undefined."""
    if len(d) < 2 or np.ptp(d) <= _TIE * np.abs(d).max():
        return None
    t = float(d.mean() / (np.std(d, ddof=1) / math.sqrt(len(d))))
    return 2 * float(stdtr(len(d) - 1, -abs(t)))


def _signed_ranks(d: Floats) -> Floats:
    """Ranks of the absolute differences, mean rank for ties, zeros dropped, with their signs."""
    scale = float(np.abs(d).max())
    rounded = np.round(d / scale / _TIE) if scale else d
    kept = rounded[rounded != 0]
    _, inverse, counts = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    signed: Floats = np.sign(kept) * ranks[inverse]
    return signed
