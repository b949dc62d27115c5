"""What a grid folder holds: every cell with its state, its settings, its numbers and its traces."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clframe.config.grid import load_grid as expand
from clframe.config.identity import resolved, run_id
from clframe.errors import ClframeError, nearest
from clframe.evaluation.order import names, retained, withdrawn
from clframe.evaluation.trace import AccuracyTrace
from clframe.tracking.store import RunStore

NEEDED = ("metrics.json", "trace.parquet", "boundary.parquet")
COLUMNS = ["iteration", "train_experience", "eval_experience", "readout", "accuracy"]


@dataclass(frozen=True)
class Cell:
    """One run of a grid. Only a cell whose `state` is "done" has numbers to show."""

    id: str
    folder: Path
    state: str  # done, failed, interrupted, running, missing or broken
    error: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        return str(self.config.get("strategy", "?"))

    @property
    def scenario(self) -> str:
        return str(self.config.get("scenario", "?"))

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def reference(self) -> str | None:
        """ "joint" or "independent" for a strategy that only serves as a bound."""
        return self.record.get("reference")

    @property
    def primary(self) -> str:
        """The readout of every table and figure."""
        return str(self.record.get("primary", "net/seen"))

    @property
    def evaluation(self) -> dict[str, Any]:
        """How often and on how much the run was evaluated: rho, dense, subset, split."""
        return {**self.config.get("eval", {}), **self.record.get("eval", {})}

    @property
    def stream(self) -> list[dict[str, Any]]:
        """What the run learned and forgot, as its record describes it."""
        return list(self.record.get("data", {}).get("experiences", []))

    @property
    def forgotten(self) -> dict[int, int]:
        """Experience -> the stream position that withdrew it."""
        return withdrawn(self.stream)

    @property
    def stages(self) -> dict[int, str]:
        """What each stream position is called: its number, or its request where there were some."""
        if not self.config.get("requests"):
            return {e["index"]: str(e["index"]) for e in self.stream}
        return names(self.stream)

    @property
    def kept(self) -> list[int] | None:
        """Positions of what was learned and not forgotten later; None: all there is."""
        return retained(self.stream) if self.stream else None

    def trace(self) -> AccuracyTrace:
        """The primary readout after every evaluated update, on the fixed subsets."""
        return read_trace(self.folder / "trace.parquet", self.primary)

    def boundary(self) -> AccuracyTrace:
        """The primary readout at the end of each experience, on the full evaluation split."""
        return read_trace(self.folder / "boundary.parquet", self.primary)


@dataclass(frozen=True)
class Grid:
    """A grid folder: every cell that is, or should be, there."""

    name: str
    folder: Path
    cells: tuple[Cell, ...]
    warnings: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[Cell, ...]:
        return tuple(c for c in self.cells if c.state == "done")


def read_trace(path: Path, readout: str) -> AccuracyTrace:
    """The rows of one readout in a trace file, by iteration and evaluated experience."""
    table = pq.read_table(path, columns=COLUMNS, filters=[("readout", "=", readout)])
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
    order = np.lexsort((columns["eval_experience"], columns["iteration"]))
    return AccuracyTrace.from_columns({k: v[order] for k, v in columns.items()}, readout)


def load_grid(folder: Path) -> Grid:
    """Read a grid folder; cells that failed, broke or never ran are listed with the rest.

    `grid.yaml` says which cells there should be. A folder without one, as `clframe run` leaves it,
    is taken as it is; cells that the file no longer asks for are left out, with a warning.
    """
    check_folder(folder)
    found = {p.name: load_cell(p) for p in _cell_folders(folder)}
    planned, beside, warnings = _planned(folder / "grid.yaml")
    warnings += [
        f"a run that the audit needs is {found[i].state}: {i}"
        for i in sorted(beside & set(found))
        if found[i].state != "done"
    ]
    found = {i: cell for i, cell in found.items() if i not in beside}
    cells = [
        found.get(id_) or Cell(id_, folder / id_, "missing", "never started", config)
        for id_, config in planned.items()
    ]
    strays = sorted(set(found) - set(planned))
    if strays and planned:
        warnings.append(f"not in grid.yaml, and left out: {', '.join(strays)}")
    asked = [c for c in cells if c.state == "done" and any(map(_forgets, c.stream))]
    due = [c for c in asked if beside and not RunStore(c.folder).audit_path.exists()]
    if due:
        told = f"{len(due)} of {len(asked)} runs that were told to forget are not judged"
        warnings.append(f"{told}: clframe audit {folder.name}")
    return Grid(
        folder.name, folder, tuple(cells or sorted(found.values(), key=_order)), tuple(warnings)
    )


def _forgets(row: dict[str, Any]) -> bool:
    return row.get("kind") == "forget"


def load_cell(folder: Path) -> Cell:
    """Read one cell; a file that cannot be read makes it "broken" and says why."""
    store = RunStore(folder)
    try:
        config = store.read_config()
        state = store.state()
        if state == "missing":
            return Cell(folder.name, folder, state, "no record: it never began", config)
        record = store.read_record().model_dump()
        error = record["error"]
        if state == "interrupted" and error is None:
            error = "stopped before its end; run the grid again to continue it"
        metrics = store.read_metrics() if state == "done" else {}
        cell = Cell(folder.name, folder, state, error, config, record, metrics)
        if state == "done":
            _check_files(cell)
    except (OSError, ValueError, yaml.YAMLError, pa.ArrowException) as e:
        message = f"{type(e).__name__}: {e}"
        return Cell(folder.name, folder, "broken", message, _config_or_name(folder))
    return cell


def _order(cell: Cell) -> tuple[str, str, list[Any], int]:
    """Where no grid file gives an order: by name, then by settings with numbers as numbers."""
    settings = json.dumps(cell.config | {"seed": 0}, sort_keys=True, default=str)
    numbered = [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", settings)]
    return cell.scenario, cell.strategy, numbered, cell.seed


def check_folder(folder: Path) -> None:
    """Raise ClframeError, with the grids that there are, where `folder` is none."""
    if folder.is_dir():
        return
    beside = [p.name for p in folder.parent.glob("*") if any(_cell_folders(p))]
    known = f"Grids there: {', '.join(sorted(beside))}." if beside else "There are no grids there."
    raise ClframeError(
        f"no grid named {folder.name!r} in {folder.parent}.{nearest(folder.name, beside)}\n{known}"
    )


def _cell_folders(folder: Path) -> list[Path]:
    return sorted(p.parent for p in folder.glob("*/config.yaml"))


def _check_files(cell: Cell) -> None:
    for name in NEEDED:
        if not (cell.folder / name).is_file():
            raise FileNotFoundError(f"{name} is missing although the record says done")
    for name, rows in (("trace", cell.trace()), ("boundary", cell.boundary())):
        if not len(rows.iteration):
            raise ValueError(f"{name}.parquet has no row of the readout {cell.primary!r}")


def _config_or_name(folder: Path) -> dict[str, Any]:
    """What can still be said of a broken cell: its configuration, or else what its name tells."""
    try:
        return RunStore(folder).read_config()
    except (OSError, ValueError, yaml.YAMLError):
        scenario, _, rest = folder.name.partition("-")
        return {"scenario": scenario, "strategy": rest.rsplit("-", 2)[0] or "?"}


def _planned(path: Path) -> tuple[dict[str, dict[str, Any]], set[str], list[str]]:
    """The id and configuration of every cell that a grid file asks for, in its order.

    Second: the ids of the runs that an audit needs beside them, which are no methods.
    """
    if not path.is_file():
        return {}, set(), []
    try:
        spec = expand(path)
        cells, beside = spec.cells(), {run_id(cfg) for cfg in spec.companions()}
    except ClframeError as e:
        said = f"cells that never started are not listed: grid.yaml cannot be read here ({e})"
        return {}, set(), [said]
    return {run_id(cell): resolved(cell).model_dump() for cell in cells}, beside, []
