"""The same work as `clframe run` does it: a supervised cell, MLflow, progress bar, checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from rich.console import Console
from work import EXPERIENCES, Work, given, report

from clframe.config.load import load_run
from clframe.config.schema import RunConfig
from clframe.grid.runner import run_one
from clframe.tracking.store import RunStore

HERE = Path(__file__).resolve().parent


def words(work: Work) -> list[str]:
    """The work as clframe is told it; all that is not said stays at its default."""
    return [
        "strategy=replay",
        "scenario=split_fmnist",
        f"seed={work.seed}",
        f"batch_size={work.batch}",
        f"epochs={work.epochs}",
        f"net.name={work.net}",
        f"optim.lr={work.rate}",
        f"eval.rho={work.rho}",
        f"eval.subset={work.subset}",
        f"accelerator={'gpu' if work.device == 'cuda' else 'cpu'}",
        f"options.replay.capacity={work.capacity}",
        f"options.split_fmnist.train_limit={work.iters * work.batch // 2}",
        *work.words,
    ]


class Measured:
    """A started cell; being asked whether it has ended, it looks whether experience 1 has."""

    def __init__(self, folder: Path, env: dict[str, str], log: Path, device: str) -> None:
        self.marks = folder / "marks.jsonl"
        self.since: float | None = None
        command = [sys.executable, str(HERE / "cell.py"), str(folder), str(self.marks), device]
        with open(log, "ab") as out:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=out)

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        if self.since is None and self.marks.exists():
            self.since = time.process_time()
        return self.process.poll()

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def run(cfg: RunConfig, device: str) -> tuple[RunStore, list[dict[str, Any]], float]:
    """Run a cell to its end; its folder, its marks, and our own CPU time since experience 1."""
    runs = Path("runs").absolute()
    started: list[Measured] = []

    def launch(folder: Path, env: dict[str, str], log: Path) -> Measured:
        started.append(Measured(folder.resolve(), env, log, device))
        return started[-1]

    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # where the bars go
        code = run_one(cfg, runs, Console(file=nowhere, force_terminal=True), launch=launch)
    ours = time.process_time()
    if len(started) != 1:
        sys.exit(f"{len(started)} cells were started instead of one, exit code {code}")
    (cell,) = started
    store = RunStore(cell.marks.parent)
    if code:
        sys.exit(f"the cell failed, exit code {code}:\n{store.log_path.read_text()}")
    assert cell.since is not None
    marks = [json.loads(line) for line in cell.marks.read_text().splitlines()]
    return store, marks, ours - cell.since


def main() -> None:
    work = given()
    store, (*marks, end), supervisor = run(load_run(words(work)), work.device)
    last = store.read_trace("net/all").to_pylist()[-EXPERIENCES:]
    final = [row["accuracy"] for row in last]
    report("clframe", work, marks, supervisor=supervisor, **end, final=final)


if __name__ == "__main__":
    main()
