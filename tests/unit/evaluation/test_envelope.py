"""Thinning keeps every dip: extremes per bin equal those of the whole curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clframe.evaluation.envelope import edges, envelope

VALUES = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 0.5, 0.5, 1.0]), st.just(np.nan))
CURVES = st.integers(0, 80).flatmap(lambda n: arrays(np.float64, n, elements=VALUES))


@given(CURVES, st.integers(1, 30))
def test_extremes_of_every_bin_are_those_of_the_whole_curve(values: np.ndarray, bins: int) -> None:
    steps = np.arange(len(values)) * 3 + 7
    thin_steps, thin = envelope(steps, values, bins)
    for begin, end in zip(edges(len(values), bins)[:-1], edges(len(values), bins)[1:], strict=True):
        whole = values[begin:end]
        kept = thin[(thin_steps >= 3 * begin + 7) & (thin_steps < 3 * end + 7)]
        assert np.isnan(whole).all() == np.isnan(kept).all()
        if not np.isnan(whole).all():
            assert np.nanmin(kept) == np.nanmin(whole)
            assert np.nanmax(kept) == np.nanmax(whole)
        assert np.array_equal(kept[:1], whole[:1], equal_nan=True)


@given(CURVES, st.integers(1, 30))
def test_points_are_points_of_the_curve_in_order_and_few(values: np.ndarray, bins: int) -> None:
    steps = np.arange(len(values))
    thin_steps, thin = envelope(steps, values, bins)
    assert np.array_equal(values[thin_steps], thin, equal_nan=True)
    assert np.all(np.diff(thin_steps) > 0)
    assert len(thin) <= 3 * bins + 1
    assert not len(values) or thin_steps[-1] == len(values) - 1
    if len(values) <= bins:
        assert np.array_equal(thin_steps, steps)


def test_a_dip_of_one_point_in_fifty_thousand_survives() -> None:
    values = np.full(50_000, 0.95)
    values[31_337] = 0.29
    steps, thin = envelope(np.arange(50_000), values, 1500)
    assert thin.min() == 0.29
    assert steps[thin.argmin()] == 31_337


def test_bins_are_counts() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        envelope(np.arange(3), np.zeros(3), 0)
    with pytest.raises(ValueError, match="one equal length"):
        envelope(np.arange(3), np.zeros(4), 2)
