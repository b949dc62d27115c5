"""Accuracy over iterations, as a mean and a band over seeds, on one axis for all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clframe.evaluation.envelope import envelope
from clframe.evaluation.trace import AccuracyTrace
from clframe.report.load import Cell

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
MAX_BINS = 1500
MAX_POINTS = 400_000  # of all curves in one figure


class Series(NamedTuple):
    """One thinned line: where and how high."""

    steps: Floats
    values: Floats


class Curve(NamedTuple):
    """The mean over `seeds` seeds with the lowest and the highest of them; arrays are [n]."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int

    def thinned(self, bins: int) -> tuple[Series, Series, Series]:
        """Mean, low and high by envelope: no dip of any of them is lost."""
        mean, low, high = (
            Series(*envelope(self.steps, y, bins)) for y in (self.mean, self.low, self.high)
        )
        return mean, low, high

    def between(self, first: float, last: float) -> Curve:
        keep = (self.steps >= first) & (self.steps <= last)
        return Curve(self.steps[keep], self.mean[keep], self.low[keep], self.high[keep], self.seeds)


@dataclass(frozen=True)
class Axis:
    """Where each experience begins and ends on the shared axis: one more edge than positions.

    Runs with equal boundaries keep their own iterations. Where they differ (class orders of other
    sizes, another number of epochs) each experience is as long as the longest, and an update keeps
    its distance from the last switch, so that dips after a switch lie under each other.
    """

    positions: tuple[int, ...]
    edges: tuple[int, ...]
    exact: bool

    @property
    def switches(self) -> list[tuple[int, int]]:
        """(position learned next, where) of every switch."""
        return list(zip(self.positions[1:], self.edges[1:-1], strict=True))

    def place(self, trace: AccuracyTrace) -> NDArray[np.float64]:
        """The rows' iterations on this axis."""
        x = np.zeros(len(trace.iteration))
        for (k, begin), own in zip(
            zip(self.positions, self.edges, strict=False), own_edges(trace), strict=False
        ):
            here = trace.train_experience == k
            x[here] = begin + trace.iteration[here] - own
        return x


def own_edges(trace: AccuracyTrace) -> list[int]:
    """0, then the last iteration of each experience in turn."""
    ends = [
        int(trace.iteration[trace.train_experience == k].max())
        for k in np.unique(trace.train_experience)
    ]
    return [0, *ends]


def shared_axis(traces: Iterable[AccuracyTrace]) -> Axis:
    """The axis on which all of `traces` fit."""
    traces = list(traces)
    edges = [own_edges(t) for t in traces]
    longest = max(edges, key=len)
    lengths = np.zeros(len(longest) - 1, dtype=np.int64)
    for own in edges:
        lengths[: len(own) - 1] = np.maximum(lengths[: len(own) - 1], np.diff(own))
    positions = np.unique(traces[edges.index(longest)].train_experience)
    shared = (0, *np.cumsum(lengths).tolist())
    exact = all(tuple(own) == shared[: len(own)] for own in edges)
    return Axis(tuple(positions.tolist()), shared, exact)


def experience_curve(traces: Sequence[AccuracyTrace], axis: Axis, experience: int) -> Curve | None:
    """Accuracy on one experience from the first update of its own training on."""

    def of(trace: AccuracyTrace) -> Mask:
        own: Mask = trace.eval_experience == experience
        return own & (trace.train_experience >= experience)

    return _curve(traces, axis, of)


def previous_curves(traces: Sequence[AccuracyTrace], axis: Axis) -> list[Curve]:
    """Mean accuracy of all experiences before the current one: a curve for each current one.

    Each begins at the switch, so that the fall can be seen; they do not join, since at the next
    switch the mean is over one experience more.
    """
    whole = axis.edges[-1]
    found = [switch_curve(traces, axis, learned, whole, 0) for learned, _ in axis.switches]
    return [curve for curve in found if curve is not None]


def switch_curve(
    traces: Sequence[AccuracyTrace], axis: Axis, learned: int, window: int, before: int
) -> Curve | None:
    """Mean accuracy of what was known at the switch to `learned`, from just before it on."""
    at = dict(axis.switches)[learned]
    before_it = axis.positions[axis.positions.index(learned) - 1]

    def of(trace: AccuracyTrace) -> Mask:
        known: Mask = trace.eval_experience < learned
        known &= trace.train_experience <= learned
        return known & (trace.train_experience >= before_it)

    curve = _curve(traces, axis, of)
    return None if curve is None else curve.between(at - before, at + window)


def window_of(axis: Axis, learned: int) -> int:
    """How many updates after a switch a zoom shows: where dips are, a sixth of the experience."""
    k = axis.positions.index(learned)
    length = axis.edges[k + 1] - axis.edges[k]
    return int(min(length, max(30, round(length / 6))))


def bins_for(curves: int) -> int:
    """Bins per curve: at most 1500, fewer where many share a figure. Dips stay all the same."""
    return int(min(MAX_BINS, max(150, MAX_POINTS // (9 * max(curves, 1)))))


def remembered(cell: Cell, trace: AccuracyTrace) -> AccuracyTrace:
    """`trace` without what the run was told to forget, from then on."""
    keep = np.ones(len(trace.iteration), dtype=bool)
    for experience, position in cell.forgotten.items():
        keep &= (trace.eval_experience != experience) | (trace.train_experience < position)
    return AccuracyTrace(
        trace.iteration[keep],
        trace.train_experience[keep],
        trace.eval_experience[keep],
        trace.accuracy[keep],
    )


def _curve(
    traces: Sequence[AccuracyTrace],
    axis: Axis,
    of: Callable[[AccuracyTrace], Mask],
) -> Curve | None:
    """Mean over experiences within a seed, then mean and extremes over seeds."""
    lines = []
    for trace in traces:
        keep = of(trace)
        if keep.any():
            lines.append(_average(axis.place(trace)[keep], trace.accuracy[keep]))
    if not lines:
        return None
    ends = [float(edge) for edge in axis.edges[1:]]
    steps = np.unique(np.concatenate([*(line.steps for line in lines), ends]))
    stack = np.stack([_spread(line, steps, axis) for line in lines])
    steps, stack = steps[~np.isnan(stack).any(axis=0)], stack[:, ~np.isnan(stack).any(axis=0)]
    return Curve(steps, stack.mean(axis=0), stack.min(axis=0), stack.max(axis=0), len(lines))


def _average(x: Floats, y: Floats) -> Series:
    steps, group = np.unique(x, return_inverse=True)
    return Series(steps, np.bincount(group, weights=y) / np.bincount(group))


def _spread(line: Series, steps: Floats, axis: Axis) -> Floats:
    """A seed's line at the steps of all seeds, straight between its own evaluations.

    Never across a switch: an experience shorter than the longest holds its last value.
    """
    if np.array_equal(line.steps, steps):
        return line.values
    result = np.full(len(steps), np.nan)
    for begin, end in zip(axis.edges[:-1], axis.edges[1:], strict=True):
        lower = -1 if begin == 0 else begin
        own = (line.steps > lower) & (line.steps <= end)
        here = (steps > lower) & (steps <= end)
        if own.any():
            result[here] = np.interp(steps[here], line.steps[own], line.values[own])
    return result
