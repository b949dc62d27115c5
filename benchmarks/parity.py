"""The parity ledger: published figures beside ours, and the cells of a shipped grid behind each.

    python benchmarks/parity.py                      docs/parity.md anew from docs/parity.csv
    python benchmarks/parity.py runs/online_fmnist   the same, after taking a grid's results over

Columns of the CSV: strategy, scenario and `cells` (settings) pick cells of conf/grid/<grid>.yaml;
`metric` is the key of metrics.json (a/b: b within a) that the published figure is to be compared
with; published, spread, runs and certainty are the source's; ours, half (95% t interval) and n are
means over finished cells in percent, empty where the data or the compute was missing.
"""

from __future__ import annotations

import csv
import functools
import json
import sys
from pathlib import Path

import yaml

from clframe.config.grid import load_grid
from clframe.config.identity import run_id
from clframe.config.problems import MISSING, look_up
from clframe.config.schema import RunConfig
from clframe.evaluation.statistics import mean_interval

ROOT = Path(__file__).parents[1]
LEDGER, PAGE = ROOT / "docs" / "parity.csv", ROOT / "docs" / "parity.md"
START = "<!-- from parity.csv, by benchmarks/parity.py -->\n"
HEAD = ("strategy", "setting", "published [%]", "source", "ours [%]", "cells")
Row = dict[str, str]


def read() -> list[Row]:
    """The ledger's rows."""
    with LEDGER.open(newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def grid_cells(name: str) -> list[RunConfig]:
    """Every cell of a shipped grid."""
    return load_grid(ROOT / "conf" / "grid" / f"{name}.yaml").cells()


def cells(row: Row) -> list[RunConfig]:
    """The cells of the row's grid that the row speaks of: they differ in their seed alone.

    `key=default` is a key that a cell does not set.
    """
    settings = dict(word.split("=", 1) for word in row["cells"].split())
    wanted = {"strategy": row["strategy"], "scenario": row["scenario"]}
    wanted |= {
        key: MISSING if value == "default" else yaml.safe_load(value)
        for key, value in settings.items()
    }
    found = []
    for cell in grid_cells(row["grid"]):
        facts = cell.model_dump()
        if all(look_up(facts, key) == value for key, value in wanted.items()):
            found.append(cell)
    return found


def measure(row: Row, folder: Path) -> None:
    """Fill in ours, half and n from the finished cells in a grid's folder."""
    values = []
    for cell in cells(row):
        path = folder / run_id(cell) / "metrics.json"
        if path.is_file():
            found = json.loads(path.read_text())
            values.append(100 * look_up(found, row["metric"].replace("/", ".")))
    interval = mean_interval(values)
    if interval is not None:
        half = "" if interval.half is None else f"{interval.half:.2f}"
        row |= {"ours": f"{interval.mean:.2f}", "half": half, "n": str(len(values))}


def table(rows: list[Row]) -> str:
    """The ledger as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        published = " ".join(filter(None, (row["published"], row["spread"])))
        published += f" (n={row['runs']})" if row["runs"] else ""
        ours = f"{row['ours']} ± {row['half']} (n={row['n']})" if row["n"] else "not measured here"
        source = f"{row['source']}: {row['certainty']}" if row["certainty"] else row["source"]
        place = f"`{row['grid']}`: `{row['cells']}`" if row["cells"] else f"`{row['grid']}`"
        setting = f"{row['scenario']}, {row['setting']}"
        lines.append((row["strategy"], setting, published or "–", source or "–", ours, place))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(folders: list[str]) -> None:
    """Take results over from `folders`, then write the CSV and the page."""
    rows = read()
    for folder in map(Path, folders):
        for row in rows:
            if row["grid"] == folder.name:
                measure(row, folder)
    with LEDGER.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = PAGE.read_text().partition(START)[0]
    PAGE.write_text(text + START + "\n" + table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
