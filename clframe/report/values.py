"""The numbers of each finished cell, with those that need a reference run filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clframe.config.identity import reference_key
from clframe.config.schema import RunConfig
from clframe.evaluation.metrics import sizes_of, summarize
from clframe.evaluation.trace import AccuracyTrace
from clframe.report.columns import COLUMNS, Column, look_up, scaled
from clframe.report.groups import Group
from clframe.report.load import Cell

Values = dict[str, float | None]  # column key -> number as shown (accuracies times 100)


@dataclass(frozen=True)
class Bounds:
    """What the reference runs reached: per experience so far, on everything, and alone."""

    joint_prefix: list[float | None] | None = None
    joint_all: list[float | None] | None = None
    independent: list[float | None] | None = None


def cell_values(groups: Sequence[Group]) -> tuple[dict[str, Values], dict[str, str]]:
    """Every column of every finished cell, by cell id; None where a metric is undefined.

    Second: the cells whose files contradict themselves, with what is wrong.
    """
    found: dict[str, Values] = {}
    broken: dict[str, str] = {}
    sound: list[Cell] = []  # of the references, those that can be trusted
    for cell in sorted((c for g in groups for c in g.cells), key=lambda c: c.reference is None):
        try:
            bounds = Bounds() if cell.reference else bounds_for(cell, sound)
            found[cell.id] = _values(cell, bounds)
        except (ValueError, KeyError, TypeError) as e:
            broken[cell.id] = f"{type(e).__name__}: {e}"
        else:
            sound += [cell] * (cell.reference is not None)
    return found, broken


def matrix(trace: AccuracyTrace) -> tuple[NDArray[np.float64], list[int], list[int]]:
    """R[k, i] and the stream positions of its rows and columns; NaN where not evaluated."""
    rows, columns = np.unique(trace.train_experience), np.unique(trace.eval_experience)
    table = np.full((len(rows), len(columns)), np.nan)
    for position, k in enumerate(rows):
        own = trace.train_experience == k
        last = own & (trace.iteration == trace.iteration[own].max())
        at = np.searchsorted(columns, trace.eval_experience[last])
        table[position, at] = trace.accuracy[last]
    return table, rows.tolist(), columns.tolist()


def bounds_for(cell: Cell, references: Sequence[Cell]) -> Bounds:
    """The references of its seed that differ in nothing but the strategy and its options."""
    own_key = _key(cell)
    fitting = {r.reference: r for r in references if own_key and _key(r) == own_key}
    joint, alone = fitting.get("joint"), fitting.get("independent")
    prefix, everything, own = None, None, None
    if joint is not None:
        prefix, everything = _ends(joint)
    if alone is not None:
        own, _ = _ends(alone)
    return Bounds(prefix, everything, own)


def _ends(reference: Cell) -> tuple[list[float | None], list[float | None]]:
    """Accuracy on what is held at the end, when each was just learned, and at the end."""
    table, rows, columns = matrix(reference.boundary())
    kept = columns if reference.kept is None else reference.kept
    place = [columns.index(k) for k in kept]
    own = [rows.index(k) for k in kept]
    return _defined(table[own, place]), _defined(table[-1, place])


def _defined(row: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(x) else float(x) for x in row]


def _key(cell: Cell) -> str | None:
    """What a run shares with its references; None where its settings are of another version."""
    try:
        return reference_key(RunConfig.model_validate(cell.config))
    except ValueError:
        return None


def _values(cell: Cell, bounds: Bounds) -> Values:
    """Boundary metrics from the full split, the rest from the trace of every update."""
    described = cell.record.get("data", {})
    full = summarize(
        cell.boundary().rows(),
        kept=cell.kept,
        sizes=sizes_of(described, cell.kept) if cell.kept is not None else None,
        joint_prefix=bounds.joint_prefix,
        joint_all=bounds.joint_all,
        independent=bounds.independent,
    )
    dense = cell.metrics
    asked = [e["index"] for e in cell.stream if e.get("kind") == "forget"]
    if asked and "stages" not in dense:  # of an earlier version, which cut windows otherwise
        dense = summarize(cell.trace().rows(), kept=cell.kept, requests=asked)
    return {c.key: _value(cell, c, full, dense) for c in COLUMNS}


def _value(
    cell: Cell, column: Column, full: Mapping[str, Any], dense: Mapping[str, Any]
) -> float | None:
    if cell.reference and cell.reference not in column.for_references:
        return None
    if column.source == "boundary":
        return scaled(look_up(full, column.path), column.unit)
    if cell.evaluation.get("rho") == 0:  # evaluated at boundaries only: minima were not watched
        return None
    return scaled(look_up(dense, column.path), column.unit)
