"""Curves over seeds on one axis: means, bands, alignment at the switches."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import accuracies, rows_of

from clframe.evaluation.trace import AccuracyTrace
from clframe.report.curves import (
    Curve,
    bins_for,
    experience_curve,
    previous_curves,
    shared_axis,
    switch_curve,
    window_of,
)


def trace(rows: list[tuple[int, int, int, float]]) -> AccuracyTrace:
    t, e, i, a = (np.array(column) for column in zip(*rows, strict=True))
    return AccuracyTrace(t, e, i, a.astype(float))


# Two updates on experience 0 (or three), then two on experience 1.
SHORT_ROWS = [(0, 0, 0, 0.1), (1, 0, 0, 0.5), (2, 0, 0, 0.9)]
SHORT_ROWS += [(3, 1, 0, 0.3), (3, 1, 1, 0.5), (4, 1, 0, 0.7), (4, 1, 1, 0.9)]
LONG_ROWS = [(0, 0, 0, 0.1), (1, 0, 0, 0.3), (2, 0, 0, 0.5), (3, 0, 0, 0.7)]
LONG_ROWS += [(4, 1, 0, 0.1), (4, 1, 1, 0.3), (5, 1, 0, 0.5), (5, 1, 1, 0.5)]
SHORT, LONG = trace(SHORT_ROWS), trace(LONG_ROWS)


def test_equal_schedules_keep_their_iterations() -> None:
    axis = shared_axis([SHORT, SHORT])
    assert (axis.edges, axis.exact, axis.switches) == ((0, 2, 4), True, [(1, 2)])
    curve = experience_curve([SHORT, SHORT], axis, 0)
    assert curve is not None
    assert curve.steps.tolist() == [0, 1, 2, 3, 4]
    assert curve.mean.tolist() == [0.1, 0.5, 0.9, 0.3, 0.7]


def test_runs_of_unequal_length_are_aligned_at_the_switch() -> None:
    axis = shared_axis([SHORT, LONG])
    assert (axis.edges, axis.exact) == ((0, 3, 5), False)
    curve = experience_curve([SHORT, LONG], axis, 0)
    assert curve is not None
    assert curve.steps.tolist() == [0, 1, 2, 3, 4, 5]
    # The short run holds its 0.9 at 3; both fall at 4, the first update after the switch.
    assert curve.mean == pytest.approx([0.1, 0.4, 0.7, 0.8, 0.2, 0.6])
    assert curve.low == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.1, 0.5])
    assert curve.high == pytest.approx([0.1, 0.5, 0.9, 0.9, 0.3, 0.7])
    assert curve.seeds == 2


def test_a_short_run_alone_on_a_long_axis_falls_at_the_switch_too() -> None:
    curve = experience_curve([SHORT], shared_axis([SHORT, LONG]), 0)
    assert curve is not None
    assert curve.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert curve.mean.tolist() == [0.1, 0.5, 0.9, 0.9, 0.3, 0.7]


def test_an_experience_begins_with_its_own_first_update() -> None:
    curve = experience_curve([SHORT], shared_axis([SHORT]), 1)
    assert curve is not None
    assert curve.steps.tolist() == [3, 4]
    assert experience_curve([SHORT], shared_axis([SHORT]), 7) is None


def test_the_mean_of_previous_experiences_and_the_zoom_on_a_switch() -> None:
    rng = np.random.default_rng(0)
    lengths = [40, 40, 40]
    table = accuracies("replay", lengths, rng)
    whole = trace(rows_of(table, lengths, boundaries=False))
    axis = shared_axis([whole])
    first, second = previous_curves([whole], axis)
    assert first.steps.tolist() == list(range(40, 81))
    assert second.steps.tolist() == list(range(80, 121))
    assert first.mean == pytest.approx(table[40:81, 0])
    assert second.mean == pytest.approx(table[80:, :2].mean(axis=1))
    window = window_of(axis, 2)
    zoom = switch_curve([whole], axis, 2, window, before=5)
    assert zoom is not None
    assert (window, zoom.steps[0], zoom.steps[-1]) == (30, 75, 110)
    assert zoom.mean == pytest.approx(table[75:111, :2].mean(axis=1))


def test_sparse_evaluations_of_unequal_runs_make_no_spikes() -> None:
    runs = []
    for length in (9, 10):
        table = np.full((2 * length + 1, 2), 0.5)
        runs.append(trace(rows_of(table, [length, length], boundaries=False, rho=4)))
    curve = experience_curve(runs, shared_axis(runs), 0)
    assert curve is not None
    assert np.array_equal(curve.mean, np.full(len(curve.mean), 0.5))


def test_thinning_keeps_the_dip_of_the_band() -> None:
    steps = np.arange(20_000.0)
    mean, low = np.full(20_000, 0.9), np.full(20_000, 0.8)
    low[12_345] = 0.05
    thin = Curve(steps, mean, low, mean + 0.05, 3).thinned(bins_for(1))
    assert thin[1].values.min() == 0.05
    assert thin[1].steps[thin[1].values.argmin()] == 12_345
    assert max(len(line.steps) for line in thin) <= 3 * 1500 + 1


def test_many_curves_get_fewer_bins() -> None:
    assert bins_for(1) == 1500
    assert bins_for(90) < 1500
    assert bins_for(100_000) == 150
