"""What accuracy costs in samples: final ACC of each method against the samples it processed.

python benchmarks/per_sample.py RUNS/GRID FIGURE.png

Mean and 95 % t-interval over seeds, from the tables of `clframe report`, which has to be run first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

APART = 0.012  # share by which methods of equal cost stand beside each other


def draw(folder: Path, target: Path) -> None:
    """One point a method; those that differ in amount alone share a colour."""
    tables = json.loads((folder / "report" / "tables.json").read_text())
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


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
