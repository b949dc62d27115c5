"""Thinning a long curve without losing a dip: each bin keeps its extremes, nothing is sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[Any]
Values = NDArray[np.float64]


def edges(size: int, bins: int) -> NDArray[np.int64]:
    """Where the bins of a curve of `size` points begin, and at the end `size`: [bins + 1]."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    return np.linspace(0, size, min(bins, max(size, 1)) + 1).astype(np.int64)


def envelope(steps: Steps, values: Values, bins: int) -> tuple[Steps, Values]:
    """The first, lowest and highest point of each of `bins` bins and the last of all, steps kept.

    Bins hold equal numbers of points. NaN is absence: it is never an extreme, but a bin that begins
    with one keeps it, so that a gap in a curve stays a gap. A curve of at most `bins` points comes
    back whole; the result has at most 3 * bins + 1 points, in the order given.
    """
    values = np.asarray(values, dtype=np.float64)
    steps = np.asarray(steps)
    if steps.shape != values.shape or values.ndim != 1:
        raise ValueError(f"steps {steps.shape} and values {values.shape} must be one equal length")
    start = edges(len(values), bins)[:-1]
    if len(values) <= bins:
        return steps, values
    last = np.array([len(values) - 1])
    keep = [start, last, _extreme(values, start), _extreme(-values, start)]
    index = np.unique(np.concatenate(keep))
    return steps[index], values[index]


def _extreme(values: Values, start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first lowest value of each bin; bins of nothing but NaN have none."""
    filled = np.where(np.isnan(values), np.inf, values)
    sizes = np.diff(np.append(start, len(values)))
    lowest = np.repeat(np.minimum.reduceat(filled, start), sizes)
    hits = np.flatnonzero((filled == lowest) & ~np.isnan(values))
    _, first = np.unique(np.repeat(np.arange(len(start)), sizes)[hits], return_index=True)
    return hits[first]
