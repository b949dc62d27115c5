"""Whether later experiences are learned faster: updates until each new one is known, by its place.

python benchmarks/facilitation.py RUNS/GRID [--threshold 0.8] [--csv FILE]

Of every done cell: the number of updates from the start of an experience on after which accuracy
on its own evaluation subset first reaches the threshold, and of the samples they took, rehearsed
ones included (updates x batch size). Runs evaluated at every `eval.rho`-th update are that coarse.
The mean and its 95 % t-interval are over the seeds that reached it; `never` counts the others.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clframe.errors import ClframeError
from clframe.evaluation.statistics import mean_interval
from clframe.evaluation.trace import AccuracyTrace
from clframe.report.load import Cell, load_grid

COLUMNS = ["scenario", "strategy", "settings", "phase", "seeds", "never"]
COLUMNS += [f"{unit}{part}" for unit in ("updates", "samples") for part in ("", "_low", "_high")]


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
        for phase, index in enumerate(learned):
            found = [updates_to(trace, index, threshold) for trace in traces]
            row = {
                "scenario": first.scenario,
                "strategy": first.strategy,
                "settings": settings(first),
                "phase": phase,
                "seeds": len(found),
                "never": found.count(None),
            }
            for unit, size in (("updates", 1), ("samples", first.config["batch_size"])):
                row |= interval(unit, [None if n is None else size * n for n in found])
            rows.append(row)
    return rows


def interval(name: str, values: Sequence[int | None]) -> dict[str, float | None]:
    """The mean and its 95 % t-interval, as columns; None where there are too few values."""
    found = mean_interval(values)
    mean = low = high = None
    if found is not None:
        mean = found.mean
        if found.half is not None:
            low, high = mean - found.half, mean + found.half
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def table(rows: list[dict[str, Any]]) -> str:
    """Phases from left to right: mean updates +- half of the interval, and (seeds that never)."""
    lines: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        cell = "-"
        if row["updates"] is not None:
            cell = f"{row['updates']:.1f}"
            if row["updates_high"] is not None:
                cell += f"±{row['updates_high'] - row['updates']:.1f}"
        if row["never"]:
            cell += f" ({row['never']})"
        lines[" ".join(filter(None, (row["scenario"], row["strategy"], row["settings"])))] += [cell]
    phases = max(map(len, lines.values()))
    grid = [["", *map(str, range(phases))], *([name, *cells] for name, cells in lines.items())]
    widths = [max(len(row[i]) for row in grid if i < len(row)) for i in range(phases + 1)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()
        for row in grid
    )


def written(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("grid", type=Path, help="the folder of a grid, as runs/power_law_small")
    parser.add_argument("--threshold", type=float, default=0.8, help="accuracy from 0 to 1 (0.8)")
    parser.add_argument("--csv", type=Path, help="where to write (GRID/facilitation.csv)")
    told = parser.parse_args()
    if not 0 < told.threshold <= 1:
        parser.error(f"--threshold: {told.threshold} is no accuracy; give one above 0, at most 1")
    try:
        grid = load_grid(told.grid)
    except ClframeError as error:
        parser.error(str(error))
    rows = curves(grid.done, told.threshold)
    if not rows:
        sys.exit(f"{told.grid}: none of its {len(grid.cells)} cells is done.")
    path = told.csv or told.grid / "facilitation.csv"
    written(rows, path)
    print(f"updates until the newest experience has accuracy {told.threshold:g}, by phase")
    print("mean ± 95 % interval over the seeds that reached it (those that never did)\n")
    print(table(rows))
    left = len(grid.cells) - len(grid.done)
    print(f"\n{path}" + (f"; {left} cells are not done" if left else ""))


if __name__ == "__main__":
    main()
