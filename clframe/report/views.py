"""Tables as people read them: rounded, with units, bounds below methods, n where it differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clframe.report.columns import ACCURACY, BY_KEY, COMPARED, FURTHER, GAP, SCORES, Column
from clframe.report.tables import Record, Table

NONE = "–"
DECIMALS = {"%": 1, "points": 1, "ratio": 2, "updates": 1}

ACCURACY_NOTE = (
    "Mean ± half-width of the 95% t interval over n seeds; (n=…) where the rest have no value. ACC "
    "and FORG: full split, at boundaries; the others: fixed subsets, at every evaluated update."
)
GAP_NOTE = (
    "Fixed subsets, every evaluated update. Recovery time is a mean over those old experiences "
    "that come back at all: read it together with their share. One that never falls below 0.95 of "
    "where it was, which may be zero, has come back after 0 updates."
)


@dataclass(frozen=True)
class View:
    """One table ready to print; `tips` explain the columns where there is room for it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    tips: list[str] = field(default_factory=list)


def metric_views(table: Table, benchmark: str) -> list[View]:
    """Accuracies, gaps, and the further metrics that any method of the benchmark has."""
    own = [r for r in table if r["benchmark"] == benchmark]
    further = [c for c in FURTHER if any(r["metric"] == c.key for r in own)]
    found = [
        _metrics(f"{benchmark}: accuracy, worst case included", own, ACCURACY, ACCURACY_NOTE),
        _metrics(f"{benchmark}: stability gap", own, GAP, GAP_NOTE),
        _metrics(f"{benchmark}: further metrics", own, further, ""),
    ]
    return [view for view in found if view.rows]


def _metrics(title: str, table: Table, columns: Sequence[Column], note: str) -> View:
    methods = list(dict.fromkeys((r["method"], r["reference"]) for r in table))
    methods.sort(key=lambda m: m[1] is not None)
    rows = []
    for method, reference in methods:
        own = {r["metric"]: r for r in table if r["method"] == method}
        seeds = max(r["n"] + r["nulls"] for r in own.values())
        cells = [_mean(own.get(c.key), seeds) for c in columns]
        if any(cell != NONE for cell in cells):
            name = f"{method} (bound)" if reference else method
            rows.append([name, str(seeds), *cells])
    head = ["method", "n", *(c.head for c in columns)]
    return View(title, head, rows, note, ["", "finished seeds", *(c.meaning for c in columns)])


def paired_view(table: Table, benchmark: str) -> View | None:
    """Differences to the baseline and to what is wrapped, a column per metric."""
    own = [r for r in table if r["benchmark"] == benchmark]
    if not own:
        return None
    columns = [BY_KEY[key] for key in COMPARED]
    rows = []
    for pair in dict.fromkeys((r["method"], r["baseline"]) for r in own):
        found = {r["metric"]: r for r in own if (r["method"], r["baseline"]) == pair}
        rows.append([*pair, *(_difference(found[c.key]) for c in columns)])
    note = (
        "Method minus baseline over shared seeds, in points: mean ± half-width of the 95% t "
        "interval; then the p of the exact sign-flip test, Holm-adjusted over all pairs and "
        "benchmarks of the metric. With n seeds that test cannot go below 2 / 2ⁿ: 0.25 for three."
    )
    head = ["method", "baseline", *(f"Δ {c.label} {_arrow(c)}" for c in columns)]
    return View(f"{benchmark}: differences to the baseline", head, rows, note)


def aggregate_view(table: Table, baseline: str | None) -> View | None:
    """IQM over seeds and benchmarks, and how often a seed beats one of the baseline."""
    if not table:
        return None
    rows = []
    for method in dict.fromkeys(r["method"] for r in table):
        found = {r["metric"]: r for r in table if r["method"] == method}
        first = next(iter(found.values()))
        cells = [_iqm(found.get(key)) for key in SCORES]
        rows.append([method, f"{first['seeds']} × {first['benchmarks']}", *cells])
    note = (
        "Interquartile mean with its 95% percentile bootstrap interval (seeds resampled for each "
        f"benchmark); P: probability that a seed beats one of {baseline or 'the baseline'}."
    )
    cautions = sorted({r["warning"] for r in table if r["warning"]})
    note = " ".join([note, *(f"Warning: {c}." for c in cautions)])
    head = ["method", "seeds × benchmarks", *(f"{BY_KEY[k].label} [%]" for k in SCORES)]
    return View("Over all benchmarks: interquartile means", head, rows, note)


def cost_view(table: Table) -> View:
    """Time, updates and memory of each method."""
    names = {
        "seconds_total": ("seconds", 1),
        "seconds_train": ("of these training", 1),
        "seconds_evaluate": ("of these evaluating", 1),
        "updates": ("updates", 0),
        "samples": ("samples processed", 0),
        "memory_mb": ("memory [MB]", 2),
        "memory_samples": ("samples in memory", 0),
        "past_samples": ("past samples read", 0),
    }
    rows = [
        [r["benchmark"], r["method"], str(r["n"])]
        + [_number(r[key], places) for key, (_, places) in names.items()]
        for r in table
    ]
    head = ["benchmark", "method", "n", *(name for name, _ in names.values())]
    return View("Cost: mean over seeds", head, rows)


def cells_view(table: Table) -> View:
    """Every cell and what became of it."""
    head = [
        "benchmark",
        "method",
        "seed",
        "state",
        "updates",
        "seconds",
        "attempts",
        "cell",
        "error",
    ]
    rows = [
        [
            *(r["benchmark"], r["method"], str(r["seed"]), r["state"], _progress(r)),
            *(_number(r["seconds"], 1), str(r["attempts"] or NONE), r["cell"], r["error"] or ""),
        ]
        for r in table
    ]
    return View("Cells", head, rows)


def settings_view(table: Table) -> View:
    rows = [[r["setting"], r["value"]] for r in table]
    return View("Settings", ["setting", "value"], rows)


def _mean(record: Record | None, seeds: int) -> str:
    if record is None or record["mean"] is None:
        return NONE
    places = DECIMALS[record["unit"]]
    text = _number(record["mean"], places)
    if record["half"] is not None:
        text += f" ± {_number(record['half'], places)}"
    return text if record["n"] == seeds else f"{text} (n={record['n']})"


def _difference(record: Record) -> str:
    if record["mean"] is None:
        return NONE
    text = _number(record["mean"], 1, sign="+")
    if record["half"] is not None:
        text += f" ± {_number(record['half'], 1)}"
    p = f", p={record['p_holm']:.2g}" if record["p_holm"] is not None else ""
    few = "" if record["n"] == record["seeds"] else f" (n={record['n']})"
    return text + p + few


def _iqm(record: Record | None) -> str:
    if record is None:
        return NONE
    text = _number(record["iqm"], 1)
    if record["low"] is not None:
        text += f" [{_number(record['low'], 1)}, {_number(record['high'], 1)}]"
    return text if record["p_better"] is None else f"{text}, P={record['p_better']:.2f}"


def _number(value: float | None, places: int, sign: str = "") -> str:
    """Rounded, with a real minus, spaces in long counts and no negative zero."""
    if value is None:
        return NONE
    text = f"{round(value, places) + 0.0:{sign},.{places}f}"
    return text.replace(",", " ").replace("-", "−")


def _progress(record: Record) -> str:
    done, of = record["updates"], record["of"]
    if not of:
        return NONE
    return str(of) if done == of else f"{done or 0} of {of}"


def _arrow(column: Column) -> str:
    return "↑" if column.better == "up" else "↓"
