"""From the numbers of each seed to the tables of a grid: means, costs, cells, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clframe.evaluation.order import PART
from clframe.evaluation.statistics import mean_interval
from clframe.report.columns import COLUMNS, MAIN, Column
from clframe.report.groups import Group, Naming, flatten
from clframe.report.load import Cell, Grid
from clframe.report.values import Values

Record = dict[str, Any]
Table = list[Record]

MEGABYTE = 1e6
COSTS: tuple[tuple[str, tuple[str, str], float], ...] = (
    ("seconds_total", ("seconds", "total"), 1),
    ("seconds_train", ("seconds", "train"), 1),
    ("seconds_evaluate", ("seconds", "evaluate"), 1),
    ("updates", ("cost", "updates"), 1),
    ("samples", ("cost", "samples"), 1),
    ("memory_mb", ("cost", "memory_bytes"), 1 / MEGABYTE),
    ("memory_samples", ("cost", "memory_samples"), 1),
    ("past_samples", ("cost", "past_samples"), 1),
)


def metrics_table(groups: Sequence[Group], values: Mapping[str, Values]) -> Table:
    """One record per benchmark, method and metric: n, nulls, mean and 95% t interval over seeds."""
    table = []
    for group in groups:
        for column in columns_of(group, values):
            numbers = [values[c.id][column.key] for c in group.cells]
            interval = mean_interval(numbers)
            mean = None if interval is None else interval.mean
            half = None if interval is None else interval.half
            table.append(
                _about(group)
                | {"metric": column.key, "label": column.label, "unit": column.unit}
                | {"better": column.better, "from": column.source}
                | {"n": 0 if interval is None else interval.n, "nulls": numbers.count(None)}
                | {"mean": mean, "half": half, **_ends(mean, half)}
            )
    return table


def columns_of(group: Group, values: Mapping[str, Values]) -> list[Column]:
    """The columns that this group can have, and of the further ones those that it does have."""
    kind = group.reference
    fitting = [c for c in COLUMNS if kind is None or kind in c.for_references]
    cells = [cell.id for cell in group.cells]
    return [c for c in fitting if c in MAIN or any(values[i][c.key] is not None for i in cells)]


def seeds_table(groups: Sequence[Group], values: Mapping[str, Values]) -> Table:
    """One record per finished cell with all its numbers: what other tables are computed from."""
    return [
        _about(group) | {"seed": cell.seed, "cell": cell.id, **values[cell.id]}
        for group in groups
        for cell in group.cells
    ]


def cost_table(groups: Sequence[Group]) -> Table:
    """What a run of each method costs: means over its seeds."""
    table = []
    for group in groups:
        record = _about(group) | {"n": len(group.cells)}
        for name, (part, key), factor in COSTS:
            numbers = [c.record.get(part, {}).get(key) for c in group.cells]
            interval = mean_interval([None if x is None else x * factor for x in numbers])
            record[name] = None if interval is None else interval.mean
        table.append(record)
    return table


def cells_table(grid: Grid, naming: Naming) -> Table:
    """Every cell of the grid with its state, the ones without numbers too."""
    return [
        {
            "benchmark": naming.benchmarks[cell.id],
            "method": naming.methods[cell.id].label,
            "seed": cell.seed,
            "state": cell.state,
            "updates": cell.record.get("iteration"),
            "of": cell.record.get("total_iterations"),
            "seconds": cell.record.get("seconds", {}).get("total"),
            "attempts": cell.record.get("attempts"),
            "cell": cell.id,
            "error": cell.error,
        }
        for cell in grid.cells
    ]


def settings_table(cells: Sequence[Cell], baseline: str | None) -> Table:
    """What the numbers depend on: schedule, subset, budget, seeds, software."""
    rows: list[tuple[str, Iterable[Any]]] = [
        ("evaluated every ρ updates", (_rho(c) for c in cells)),
        ("extra evaluations after a switch", (c.evaluation.get("dense") for c in cells)),
        ("samples per experience, n", (_subset(c) for c in cells)),
        ("evaluation split", (c.evaluation.get("split") for c in cells)),
        ("readout", (c.primary for c in cells)),
        ("seeds", (c.seed for c in cells)),
        ("budget: epochs per experience", (c.config.get("epochs") for c in cells)),
        ("batch size", (c.config.get("batch_size") for c in cells)),
        ("net", (c.config.get("net", {}).get("name") for c in cells)),
        ("optimizer", (_optimizer(c) for c in cells)),
        ("commit", (_commit(c) for c in cells)),
    ]
    rows += [(name, [value]) for name, value in [*_options(cells), *_software(cells)]]
    table = [{"setting": name, "value": _distinct(found)} for name, found in rows]
    return [*table, {"setting": "baseline of the comparisons", "value": baseline or "none"}]


def warnings_of(cells: Sequence[Cell]) -> list[str]:
    """What a reader must know before trusting a comparison of these cells."""
    found = []
    competing = [c for c in cells if not c.reference]  # references have no minima and no gaps
    schedules = {(_rho(c), str(c.evaluation.get("dense"))) for c in competing}
    if len(schedules) > 1 or len({_subset(c) for c in competing}) > 1:
        found.append("cells differ in ρ, dense or n: minima and gaps compare only at equal ones")
    if any(c.evaluation.get("rho") == 0 for c in competing):
        found.append("ρ = 0: evaluated at boundaries only, so minima and gaps are not known there")
    if len({c.evaluation.get("split") for c in cells}) > 1:
        found.append("cells were evaluated on different splits")
    if any(name.endswith(PART) for c in cells for name in c.stages.values()):
        found.append(
            "a request took a part of an experience, whose test data counts whole but in RA and FA"
        )
    if any(c.record.get("git", {}).get("dirty") for c in cells):
        found.append("some cells ran from a working tree with uncommitted changes")
    return found


def _about(group: Group) -> Record:
    about = {"benchmark": group.benchmark, "method": group.method.label}
    return about | {"reference": group.reference}


def _ends(mean: float | None, half: float | None) -> Record:
    if mean is None or half is None:
        return {"low": None, "high": None}
    return {"low": mean - half, "high": mean + half}


def _rho(cell: Cell) -> str:
    return str(cell.evaluation.get("rho"))


def _subset(cell: Cell) -> str:
    fixed = "" if cell.evaluation.get("fixed", True) else " (redrawn)"
    budget = cell.evaluation.get("budget")
    limit = f", {budget} over all seen" if budget else ""
    return f"{cell.evaluation.get('subset')}{limit}{fixed}"


def _optimizer(cell: Cell) -> str:
    optim = cell.config.get("optim", {})
    return f"{optim.get('name')}, lr {optim.get('lr')}, fresh per {optim.get('reset')}"


def _commit(cell: Cell) -> str:
    git = cell.record.get("git", {})
    commit = str(git.get("commit") or "unknown")[:10]
    return commit + (" + changes" if git.get("dirty") else "")


def _options(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """What plug-ins were told beside their defaults."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in flatten(cell.config.get("options", {})):
            found.setdefault(f"options.{key}", set()).add(str(value))
    return [(key, ", ".join(sorted(values))) for key, values in found.items()]


def _software(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """The environment as recorded, flattened; machine-specific paths were never in it."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in flatten(cell.record.get("environment", {})):
            found.setdefault(key, set()).add(str(value) if value != [] else "none")
    return [(key, ", ".join(sorted(values))) for key, values in found.items()]


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None)) or "not recorded"
