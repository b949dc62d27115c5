"""What accuracy costs in samples: final ACC of each method against the samples it processed.

python benchmarks/per_sample.py RUNS/GRID FOLDER

Of a grid with one scenario, into FOLDER: per_sample.png; costs.csv, what each method processed;
paired.csv, the final ACC of every two methods compared by seed. Means and 95 % t-intervals over
seeds, from the tables of `clframe report`, which has to be run first.
"""

from __future__ import annotations

import csv
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clframe.evaluation.statistics import paired

APART = 0.012  # share by which methods of equal cost stand beside each other


def costs(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over seeds of the samples and updates that each method took, and its time."""
    columns = ("n", "updates", "samples", "past_samples", "seconds_total", "seconds_evaluate")
    return [
        {"method": _short(row["method"])} | {name: _round(row[name]) for name in columns}
        for row in tables["cost"]
    ]


def pairs(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """Final ACC of every method less that of every later one, in points, over shared seeds."""
    values: dict[str, dict[int, float]] = {}
    for row in tables["seeds"]:
        values.setdefault(_short(row["method"]), {})[row["seed"]] = row["acc"]
    seeds = sorted({seed for own in values.values() for seed in own})
    rows = []
    for a, b in combinations(values, 2):
        found = paired([values[a].get(s) for s in seeds], [values[b].get(s) for s in seeds])
        told = {name: _round(getattr(found, name)) for name in ("mean", "half", "p_sign_flip")}
        rows.append({"method": a, "minus": b, "n": found.n, **told})
    return rows


def draw(tables: dict[str, Any], target: Path) -> None:
    """One point a method; those that differ in amount alone share a colour."""
    accuracy = {r["method"]: r for r in tables["metrics"] if r["metric"] == "acc"}
    cost = {r["method"]: r for r in tables["cost"]}
    names = {method: _short(method) for method in accuracy}
    families = list(dict.fromkeys(name.split(" r=")[0] for name in names.values()))
    figure = Figure(figsize=(10, 5), layout="constrained")
    ax = figure.subplots()
    for i, family in enumerate(families):
        mine = [m for m in accuracy if names[m].split(" r=")[0] == family]
        x = [cost[m]["samples"] * (1 + APART * (i - len(families) / 2)) for m in mine]
        y = [accuracy[m]["mean"] for m in mine]
        half = [accuracy[m]["half"] or 0 for m in mine]
        fmt = "o-" if len(mine) > 1 else "s"
        ax.errorbar(x, y, yerr=half, label=family, lw=1.2, fmt=fmt, capsize=3, color=f"C{i}")
    ax.set_xscale("log")
    ticks = sorted({round(cost[m]["samples"]) for m in accuracy})
    ax.set_xticks(ticks, [f"{t:,}".replace(",", " ") for t in ticks], rotation=30)
    ax.minorticks_off()
    ax.set_xlabel("samples processed")
    ax.set_ylabel("final ACC [%]")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(target, dpi=110, facecolor="white")


def _short(method: str) -> str:
    """`power_law+fine_tune, amount=0.1, law=power` is `power r=0.1`."""
    parts = dict(p.split("=") for p in method.split(", ")[1:])
    if "law" not in parts:
        return method
    amount = parts.get("amount", "default")
    return parts["law"] + ("" if amount == "default" else f" r={amount}")


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    tables, folder = Path(sys.argv[1], "report", "tables.json"), Path(sys.argv[2])
    found = json.loads(tables.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    _write(costs(found), folder / "costs.csv")
    _write(pairs(found), folder / "paired.csv")
    draw(found, folder / "per_sample.png")
