"""Metrics that need a reference run, filled in once a grid's reference cells are done."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from clframe.config.identity import reference_key
from clframe.config.schema import RunConfig
from clframe.evaluation.metrics import summarize
from clframe.evaluation.order import retained
from clframe.evaluation.trace import AccuracyTrace
from clframe.tracking.store import RunRecord, RunStore
from clframe.tracking.traces import columns

KEYS = ("intransigence", "fwt_vs_independent", "forgetting_ratio")


class _Done(NamedTuple):
    """A finished cell and what decides which references are its own."""

    store: RunStore
    record: RunRecord
    setting: str


def update(folder: Path) -> list[Path]:
    """Add what the grid's `joint` and `independent` cells make known; returns the cells changed.

    A reference serves every cell of its scenario and seed that differs from it in nothing but the
    strategy and that strategy's options.
    """
    references: dict[str, dict[str, _Done]] = defaultdict(dict)
    others = []
    for cell in _done_cells(folder):
        if cell.record.reference is None:
            others.append(cell)
        else:
            references[cell.setting][cell.record.reference] = cell
    return [c.store.folder for c in others if _fill(c, references[c.setting])]


def _done_cells(folder: Path) -> list[_Done]:
    found = []
    for path in sorted(folder.glob("*/record.json")):
        store = RunStore(path.parent)
        if store.state() == "done":
            config = RunConfig.model_validate(store.read_config())
            found.append(_Done(store, store.read_record(), reference_key(config)))
    return found


def _fill(cell: _Done, references: dict[str, _Done]) -> bool:
    """Write the keys that `references` allow; False when they were there with the same values."""
    kept = retained(cell.record.data.get("experiences", []))
    if not kept or not references:
        return False
    given: dict[str, list[float | None]] = {}
    if joint := references.get("joint"):
        given["joint_prefix"] = _at_own_boundary(joint, kept)
        given["joint_all"] = _at_last_boundary(joint, kept)
    if independent := references.get("independent"):
        given["independent"] = _at_own_boundary(independent, kept)
    known = summarize(_boundary(cell).rows(), kept=kept, **given)  # type: ignore[arg-type]
    new = {key: known[key] for key in KEYS if key in known}
    metrics = cell.store.read_metrics()
    if json.dumps({k: metrics.get(k, ...) for k in new}, default=str) == json.dumps(new):
        return False
    cell.store.write_metrics(metrics | new)
    cell.store.update_record(metrics=cell.record.metrics | new)
    return True


def _boundary(cell: _Done) -> AccuracyTrace:
    primary = cell.record.primary
    return AccuracyTrace.from_columns(columns(cell.store.read_boundary(primary)), primary)


def _at_own_boundary(reference: _Done, kept: list[int]) -> list[float | None]:
    """Accuracy on each experience when the reference had just learned it."""
    table = _last_rows(reference)
    return [table.get((k, k)) for k in kept]


def _at_last_boundary(reference: _Done, kept: list[int]) -> list[float | None]:
    """Accuracy on each experience when the reference had learned them all."""
    table = _last_rows(reference)
    last = max((train for train, _ in table), default=0)
    return [table.get((last, k)) for k in kept]


def _last_rows(reference: _Done) -> dict[tuple[int, int], float]:
    """(train experience, evaluated experience) -> accuracy at that experience's boundary."""
    trace = _boundary(reference)
    order = trace.iteration.argsort(kind="stable")
    columns = (trace.train_experience[order], trace.eval_experience[order], trace.accuracy[order])
    after = trace.iteration[order] > 0
    return {(int(t), int(e)): float(a) for t, e, a, use in zip(*columns, after, strict=True) if use}
