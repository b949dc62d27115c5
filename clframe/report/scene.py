"""All that the figures of one benchmark show, computed once for still and interactive ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from clframe.evaluation.statistics import mean_interval
from clframe.evaluation.trace import AccuracyTrace
from clframe.report.captions import VIEW_TITLES
from clframe.report.columns import BY_KEY, Column
from clframe.report.curves import (
    Axis,
    Curve,
    bins_for,
    experience_curve,
    previous_curves,
    remembered,
    shared_axis,
    switch_curve,
    window_of,
)
from clframe.report.groups import Group
from clframe.report.load import Cell
from clframe.report.style import Look
from clframe.report.values import Values, matrix

K = TypeVar("K")
BARS = ("depth", "depth_recent", "min_acc", "recovered", "recovery")


class Zoom(NamedTuple):
    """What happens after a switch at `at`: the curve of each method from `first` to `last`."""

    title: str
    at: float
    first: float
    last: float
    curves: dict[str, Curve]


class Stage(NamedTuple):
    """One request on the axis, under its name; `middle` is that of what a panel shows of it."""

    name: str
    begin: float
    end: float
    middle: float
    forgets: bool


class Bound(NamedTuple):
    """A reference method at the boundaries: on experience 0, and on the previous ones (mean)."""

    steps: list[float]
    first: list[float]
    previous_steps: list[float]
    previous: list[float]


class Heat(NamedTuple):
    """Mean R of one method over its seeds: after learning row, tested on column.

    Streams may differ by seed; a number is over those that have it. `even`: all have the same.
    """

    table: NDArray[np.float64]
    rows: list[int]
    columns: list[int]
    even: bool


class Bar(NamedTuple):
    """One method's mean with its interval and its seeds; None where undefined."""

    method: str
    mean: float | None
    half: float | None
    points: list[float]
    nulls: int


@dataclass(frozen=True)
class Scene:
    """One benchmark: methods that compete, the references that bound them, and what each did."""

    benchmark: str
    looks: Mapping[str, Look]
    axis: Axis
    experiences: dict[str, dict[int, Curve]]
    first: dict[str, Curve]
    previous: dict[str, list[Curve]]
    zooms: list[Zoom]
    relapses: list[Zoom]
    stages: dict[int, str]
    bounds: dict[str, Bound]
    heats: dict[str, Heat]
    bars: list[tuple[Column, list[Bar]]]
    seeds: str
    full_split: str

    @property
    def methods(self) -> list[str]:
        return list(self.first)

    @property
    def span(self) -> tuple[float, float]:
        """Where a panel of the whole run begins and ends."""
        return 0.0, float(self.axis.edges[-1])

    @property
    def views(self) -> list[str]:
        """What there is to draw, in the order of a report."""
        return [view for view in VIEW_TITLES if view != "relapse" or self.relapses]

    @property
    def wide_titles(self) -> tuple[str, str]:
        """Of the overlay's two panels of the whole run."""
        first = self.name(self.axis.positions[0]).capitalize()
        return first, "Mean of all experiences before the current one"

    def name(self, position: int) -> str:
        """What was learned at a stream position, by its number in the scenario."""
        return _experience(self.stages.get(position, str(position)))

    def ticks(self, heat: Heat) -> tuple[list[str], list[str]]:
        """What the rows and columns of R are called."""
        rows = [self.stages.get(k, str(k)) for k in heat.rows]
        return rows, [self.stages.get(i, str(i)).lstrip("L") for i in heat.columns]


def build_scene(
    groups: Sequence[Group], values: Mapping[str, Values], looks: Mapping[str, Look]
) -> Scene | None:
    """Read the traces of one benchmark's finished cells; None if only references have finished."""
    competing = [g for g in groups if not g.reference]
    if not competing:
        return None
    raw = {g.method.label: [c.trace() for c in g.cells] for g in competing}
    known = {
        g.method.label: [
            remembered(c, t) for c, t in zip(g.cells, raw[g.method.label], strict=True)
        ]
        for g in competing
    }
    axis = shared_axis(t for traces in raw.values() for t in traces)
    longest = max((c for g in competing for c in g.cells), key=lambda c: len(c.stream))
    names = {**{p: str(p) for p in axis.positions}, **longest.stages}
    return Scene(
        benchmark=groups[0].benchmark,
        looks=looks,
        axis=axis,
        experiences={m: _experiences(traces, axis) for m, traces in raw.items()},
        first=_present({m: experience_curve(t, axis, axis.positions[0]) for m, t in raw.items()}),
        previous={m: previous_curves(t, axis) for m, t in known.items()},
        zooms=[_zoom(known, axis, learned, at, names[learned]) for learned, at in axis.switches],
        relapses=_relapses(raw, axis, longest, names),
        stages=names,
        bounds={g.method.label: _bound(g, axis) for g in groups if g.reference},
        heats={g.method.label: _heat(g) for g in groups},
        bars=[(BY_KEY[key], _bars(key, competing, values)) for key in BARS],
        seeds=_seeds(competing),
        full_split=str(competing[0].cells[0].evaluation.get("split", "test")),
    )


def stages(scene: Scene, window: tuple[float, float]) -> list[Stage]:
    """What was learned, or forgotten, from where to where, in a panel of this `window`."""
    found, edges = [], scene.axis.edges
    for k, begin, end in zip(scene.axis.positions, edges[:-1], edges[1:], strict=True):
        name, first, last = scene.stages[k], max(begin, window[0]), min(end, window[1])
        if first < last:
            found.append(Stage(name, begin, end, (first + last) / 2, name.startswith("U")))
    return found


def panel_bins(scene: Scene) -> int:
    """Bins per curve where every experience of every method is drawn."""
    return bins_for(sum(map(len, scene.experiences.values())))


def overlay_bins(scene: Scene) -> int:
    """Bins per curve where methods lie over each other."""
    return bins_for(len(scene.first) * (1 + 2 * len(scene.zooms)))


def _experiences(traces: Sequence[AccuracyTrace], axis: Axis) -> dict[int, Curve]:
    return _present({i: experience_curve(traces, axis, i) for i in _learned(traces)})


def _learned(traces: Sequence[AccuracyTrace]) -> list[int]:
    return sorted({int(i) for t in traces for i in np.unique(t.eval_experience)})


def _experience(learned: str) -> str:
    return f"experience {learned.lstrip('L')}"


def _present(found: Mapping[K, Curve | None]) -> dict[K, Curve]:
    return {k: c for k, c in found.items() if c is not None}


def _zoom(
    known: Mapping[str, list[AccuracyTrace]], axis: Axis, learned: int, at: int, name: str
) -> Zoom:
    window = window_of(axis, learned)
    before = max(1, window // 6)
    curves = {m: switch_curve(t, axis, learned, window, before) for m, t in known.items()}
    title = f"Switch to {name}: mean of all before"
    return Zoom(title, at, at - before, at + window, _present(curves))


def _relapses(
    raw: Mapping[str, list[AccuracyTrace]], axis: Axis, cell: Cell, names: Mapping[int, str]
) -> list[Zoom]:
    """Each forgotten experience from just before its request until it is learned again, if ever."""
    found, begins = [], dict(zip(axis.positions, axis.edges, strict=False))
    for lost, request in cell.forgotten.items():
        if request not in begins:
            continue
        again = [p for p in begins if p > request and names[p] == names[lost]]
        first = max(0, begins[request] - window_of(axis, request))
        last = begins[again[0]] if again else axis.edges[-1]
        curves = {m: experience_curve(t, axis, lost) for m, t in raw.items()}
        shown = {m: c.between(first, last) for m, c in _present(curves).items()}
        title = f"{names[request]}: {_experience(names[lost])}"
        found.append(Zoom(title, begins[request], first, last, shown))
    return found


def _bound(group: Group, axis: Axis) -> Bound:
    """Where a model trained on everything so far, or on each experience alone, would be."""
    heat = _heat(group)
    shown = [k for k in heat.rows if k in axis.positions]
    ends = [float(axis.edges[axis.positions.index(k) + 1]) for k in shown]
    if group.reference == "independent":
        alone = np.diagonal(heat.table)
        first = np.full(len(ends), alone[0])
        previous = [float(alone[:k].mean()) for k in range(1, len(ends))]
    else:
        first = heat.table[: len(ends), 0]
        previous = [float(heat.table[k, :k].mean()) for k in range(1, len(ends))]
    return Bound(ends, first.tolist(), ends[1:], previous)


def _heat(group: Group) -> Heat:
    found = [matrix(cell.boundary()) for cell in group.cells]
    rows, columns = (sorted({k for t in found for k in t[axis]}) for axis in (1, 2))
    stack = np.full((len(found), len(rows), len(columns)), np.nan)
    for whole, (table, own_rows, own_columns) in zip(stack, found, strict=True):
        whole[np.ix_(np.searchsorted(rows, own_rows), np.searchsorted(columns, own_columns))] = (
            table
        )
    known = (~np.isnan(stack)).sum(axis=0)
    mean = np.where(known > 0, np.nansum(stack, axis=0) / np.maximum(known, 1), np.nan)
    return Heat(mean, rows, columns, bool(np.isin(known, (0, len(found))).all()))


def _bars(key: str, groups: Sequence[Group], values: Mapping[str, Values]) -> list[Bar]:
    bars = []
    for group in groups:
        numbers = [values[c.id][key] for c in group.cells]
        interval = mean_interval(numbers)
        points = [x for x in numbers if x is not None]
        mean, half = (None, None) if interval is None else (interval.mean, interval.half)
        bars.append(Bar(group.method.label, mean, half, points, numbers.count(None)))
    return bars


def _seeds(groups: Sequence[Group]) -> str:
    counts = sorted({len(g.cells) for g in groups})
    return "-".join(map(str, counts[:1] + counts[1:][-1:]))


def bar_range(column: Column, bars: Sequence[Bar]) -> tuple[float, float]:
    """From zero (or the lowest seed) to a little beyond the highest; wide intervals are cut."""
    if column.unit == "ratio":
        return 0.0, 1.05
    points = [x for bar in bars for x in bar.points] or [1.0]
    ends = [b.mean + b.half for b in bars if b.mean is not None and b.half is not None]
    low, high = min(0.0, *points), max(0.0, *points)
    top = min(max([high, *ends]), high + 0.5 * (high - low))
    return low * 1.08, top * 1.08 if top > 0 else 1.0


def zoom_columns(zooms: int) -> int:
    """Panels in a row: three to five, whichever leaves the fewest places empty."""
    return min((5, 4, 3), key=lambda c: -zooms % c) if zooms > 5 else max(zooms, 1)
