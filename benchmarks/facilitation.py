"""Whether later experiences are learned faster: updates until each new one is known, by its place.

python benchmarks/facilitation.py RUNS/GRID [--threshold 0.8 ...] [--csv FILE]

Of every done cell: the number of updates from the start of an experience on after which accuracy
on its own evaluation subset first reaches the threshold, and of the samples they took, rehearsed
ones included (updates x batch size). Runs evaluated at every `eval.rho`-th update are that coarse.
The mean and its 95 % t-interval are over the seeds that reached it; `never` counts the others.
Means of two experiences may thus be of other seeds. `change` is free of that: updates less those at
the second experience, by seed, over the `pairs` of seeds that reached the threshold at both.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clframe.errors import ClframeError
from clframe.evaluation.statistics import Interval, Paired, mean_interval, paired
from clframe.evaluation.trace import AccuracyTrace
from clframe.report.load import Cell, load_grid

SECOND = 1  # the first experience that others came before
COLUMNS = ["threshold", "scenario", "strategy", "settings", "phase", "seeds", "never"]
COLUMNS += [f"{unit}{part}" for unit in ("updates", "samples") for part in ("", "_low", "_high")]
COLUMNS += ["pairs", "change", "change_low", "change_high"]


def updates_to(trace: AccuracyTrace, experience: int, threshold: float) -> int | None:
    """Updates on `experience` until its own accuracy is the threshold; None if it never was.

    The accuracy before its first update counts, as 0 updates.
    """
    own = trace.train_experience == experience
    start = int(trace.iteration[trace.train_experience < experience].max(initial=0))
    before = (trace.iteration == start) & (trace.train_experience <= experience)
    good = (trace.eval_experience == experience) & (trace.accuracy >= threshold - 1e-9)
    reached = trace.iteration[(own | before) & good]
    return int(reached.min()) - start if len(reached) else None


def settings(cell: Cell) -> str:
    """What tells this cell from others of its strategy: its options, without the scenario's."""
    options = {k: v for k, v in cell.config.get("options", {}).items() if k != cell.scenario}
    flat = [f"{k}.{name}={v}" for k, own in options.items() for name, v in own.items()]
    return " ".join(flat)


def curves(cells: Iterable[Cell], threshold: float) -> list[dict[str, Any]]:
    """One row per group of cells that differ by their seed alone, and per learned experience."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[json.dumps(cell.config | {"seed": 0}, sort_keys=True, default=str)].append(cell)
    rows = []
    for group in groups.values():
        first = group[0]
        learned = [e["index"] for e in first.stream if e["kind"] == "learn"]
        traces = [cell.trace() for cell in group]
        known = [[updates_to(trace, index, threshold) for trace in traces] for index in learned]
        for phase, found in enumerate(known):
            row = {
                "threshold": threshold,
                "scenario": first.scenario,
                "strategy": first.strategy,
                "settings": settings(first),
                "phase": phase,
                "seeds": len(found),
                "never": found.count(None),
            }
            for unit, size in (("updates", 1), ("samples", first.config["batch_size"])):
                values = [None if n is None else size * n for n in found]
                row |= interval(unit, mean_interval(values))
            if phase > SECOND:
                change = paired(found, known[SECOND])
                row["pairs"] = change.n
                row |= interval("change", change)
            rows.append(row)
    return rows


def interval(name: str, found: Interval | Paired | None) -> dict[str, float | None]:
    """The mean and its 95 % t-interval, as columns; None where there are too few values."""
    mean = low = high = None
    if found is not None and found.mean is not None:
        mean = found.mean
        if found.half is not None:
            low, high = mean - found.half, mean + found.half
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def shown(row: dict[str, Any], name: str, without: int) -> str:
    """A mean +- half of its interval, and (how many seeds are left out of it)."""
    text = "-"
    if row.get(name) is not None:
        high = row[f"{name}_high"]
        text = f"{row[name]:.1f}" + ("" if high is None else f"±{high - row[name]:.1f}")
    return text + (f" ({without})" if without else "")


def table(rows: list[dict[str, Any]]) -> str:
    """Updates, the experiences from left to right, and the change from the second to the last."""
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        lines[" ".join(filter(None, (row["scenario"], row["strategy"], row["settings"])))] += [row]
    places = max(map(len, lines.values()))
    grid = [["", *map(str, range(places)), "last - second"]]
    for name, own in lines.items():
        cells = [shown(row, "updates", row["never"]) for row in own]
        cells += ["-"] * (places - len(own))
        last = own[-1]
        without = last["seeds"] - last.get("pairs", last["seeds"])
        grid.append([name, *cells, shown(last, "change", without)])
    widths = [max(len(row[i]) for row in grid) for i in range(places + 2)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()
        for row in grid
    )


def written(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("grid", type=Path, help="the folder of a grid, as runs/power_law_small")
    about = "accuracies from 0 to 1 (0.8)"
    parser.add_argument("--threshold", type=float, nargs="+", default=[0.8], help=about)
    parser.add_argument("--csv", type=Path, help="where to write (GRID/facilitation.csv)")
    told = parser.parse_args()
    for threshold in told.threshold:
        if not 0 < threshold <= 1:
            parser.error(f"--threshold: {threshold} is no accuracy; give one above 0, at most 1")
    try:
        grid = load_grid(told.grid)
    except ClframeError as error:
        parser.error(str(error))
    tables = {threshold: curves(grid.done, threshold) for threshold in told.threshold}
    rows = [row for own in tables.values() for row in own]
    if not rows:
        sys.exit(f"{told.grid}: none of its {len(grid.cells)} cells is done.")
    path = told.csv or told.grid / "facilitation.csv"
    written(rows, path)
    for threshold, own in tables.items():
        print(f"updates until the newest experience has accuracy {threshold:g}")
        print("mean ± 95 % interval over the seeds that reached it (those that never did)\n")
        print(f"{table(own)}\n")
    left = len(grid.cells) - len(grid.done)
    print(f"{path}" + (f"; {left} cells are not done" if left else ""))


if __name__ == "__main__":
    main()
