"""What forgetting did, as tables: how each method compares with never having learned it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from clframe.evaluation.order import called
from clframe.evaluation.timeline import mean_present
from clframe.report.groups import Group
from clframe.report.load import Cell
from clframe.report.tables import Record, Table
from clframe.report.verdicts import FIGURES, Facts, Figure, Limit, facts_of, middle_of, valid
from clframe.report.views import NONE, View

NOTE = (
    "Mean ± standard deviation over seeds; then the worst seed, where worst means something. "
    "RA and FA are means over experiences, on the audit's samples where there was one. What is "
    "void is not counted: a forget score is where too little was known to be forgotten (less than "
    "15 points over chance) or too little is retained (within 5 points of it). An attack is "
    "uninformative that tells nothing even before the request. Under a number with < or >, the "
    "median, a model did not get there within the audit's steps."
)
REQUEST_NOTE = (
    "After each request, in percent of all test data: mean over what is held (RA) and over what is "
    "forgotten (FA)."
)


def unlearning_table(groups: Sequence[Group]) -> Table:
    """One record per benchmark, method and figure: mean, standard deviation, worst seed."""
    table = []
    for group in groups:
        found = [f for f in map(facts_of, group.cells) if f is not None]
        void = sum(not valid(f) for f in found)
        for figure in FIGURES if found else ():
            table.append(
                {"benchmark": group.benchmark, "method": group.method.label}
                | {"figure": figure.key, "meaning": figure.meaning, "void": void}
                | _spread([figure.of(f) for f in found], figure)
                | {"note": figure.note(found)}
            )
    return table


def requests_table(groups: Sequence[Group]) -> Table:
    """One record per benchmark, method and request: means over seeds, in percent and seconds.

    Requests are the same if they are in the same place, and touch the same experiences.
    """
    table = []
    for group in groups:
        found: dict[tuple[int, int, str], list[tuple[Cell, Facts]]] = {}
        for cell in group.cells:
            behaviour = cell.metrics.get("unlearning") or {}
            for i, row in enumerate(behaviour.get("rows", ())):
                name = called(row["op"], [behaviour["tasks"][k] for k in row["tasks"]])
                found.setdefault((i, row["position"], name), []).append((cell, row))
        for (i, position, name), pairs in sorted(found.items()):
            keys = ("retain_accuracy", "forget_accuracy", "signed_spill", "peak_relapse")
            table.append(
                {"benchmark": group.benchmark, "method": group.method.label}
                | {"request": i, "name": name}
                | {key: _percent(row[key] for _, row in pairs) for key in keys}
                | {"seconds": mean_present(_seconds(cell, position) for cell, _ in pairs)}
            )
    return table


def _seconds(cell: Cell, position: int) -> float | None:
    spent = cell.record.get("spent", ())
    return next((float(r["seconds"]) for r in spent if r["index"] == position), None)


def _percent(values: Iterable[float | None]) -> float | None:
    found = mean_present(values)
    return None if found is None else 100 * found


def _spread(numbers: Sequence[float | Limit | None], figure: Figure) -> Record:
    """Over seeds; of numbers that are limits the median alone, with its bound."""
    found = [x if isinstance(x, Limit) else Limit(x) for x in numbers if x is not None]
    known, bounded = [x.value for x in found], any(x.bound for x in found)
    spread = len(known) > 1 and figure.spread and not (bounded or math.inf in known)
    middle = middle_of(found)
    return {
        "n": len(known),
        "nulls": len(numbers) - len(known),
        "mean": float(np.mean(known)) if known and not bounded else None,
        "std": float(np.std(known, ddof=1)) if spread else None,
        "median": None if middle is None else middle.value,
        "bound": "" if middle is None else middle.bound,
        "worst": figure.worst(known) if known and figure.worst else None,
    }


def unlearning_views(summary: Table, requests: Table, benchmark: str) -> list[View]:
    """The summary of each method, turned over so that it fits a page, and each request's row."""
    own = [r for r in summary if r["benchmark"] == benchmark]
    if not own:
        return []
    methods = list(dict.fromkeys(r["method"] for r in own))
    by = {(r["method"], r["figure"]): r for r in own}
    rows = [
        [f.head, *(shown(by[m, f.key], f) for m in methods), f.meaning]
        for f in FIGURES
        if f.page and any(by[m, f.key]["n"] for m in methods)
    ]
    whole = View(f"{benchmark}: unlearning", ["", *methods, "what"], rows, NOTE)
    mine = [r for r in requests if r["benchmark"] == benchmark]
    names = list(dict.fromkeys((r["request"], r["name"]) for r in mine))
    cell = {(r["method"], r["request"]): r for r in mine}
    head = ["method", *(name for _, name in names)]
    lines = [[m, *(_states(cell.get((m, i))) for i, _ in names)] for m in methods]
    each = View(f"{benchmark}: request by request, RA / FA", head, lines, REQUEST_NOTE)
    return [whole, each] if mine else [whole]


def shown(record: Record, figure: Figure) -> str:
    """A number as the page has it, with its spread and its worst seed."""
    if record["note"] or not record["n"]:
        return record["note"] or NONE

    def digits(value: float) -> str:
        exact = round(value, figure.places) + 0.0  # no zero is negative
        return "∞" if math.isinf(value) else f"{exact:.{figure.places}f}"

    limits = record["mean"] is None
    text = digits(record["median"] if limits else record["mean"])
    if limits:
        text = f"{record['bound']} {text} (median)".lstrip()
    if record["std"] is not None:
        text += f" ± {digits(record['std'])}"
    if record["worst"] is not None:
        text += f" ({digits(record['worst'])})"
    return (text + (f" n={record['n']}" if record["nulls"] else "")).replace("-", "−")


def _states(record: Record | None) -> str:
    if record is None:
        return NONE
    held, lost = record["retain_accuracy"], record["forget_accuracy"]
    return " / ".join(NONE if v is None else f"{v:.0f}" for v in (held, lost))
