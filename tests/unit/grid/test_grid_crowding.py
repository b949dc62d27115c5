"""The warning that a machine is too small, or busy: once, with the key to change, on stderr."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from clframe.config.grid import load_grid
from clframe.config.load import load_run
from clframe.config.schema import RunConfig
from clframe.grid import crowding as module
from clframe.grid.crowding import crowding
from clframe.grid.launch import Launch
from clframe.grid.runner import run_grid, run_one

Machine = Callable[[int, float], None]
GRID = """
name: g
axes: {strategy: [fine_tune], scenario: [split_digits], seed: [0, 1, 2]}
base: {track: {enabled: false}}
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine(cores, load)`: where we are from now on."""

    def make(cores: int, load: float) -> None:
        monkeypatch.setattr(module, "_cores", lambda: cores)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))

    return make


def cells(number: int, *words: str) -> list[RunConfig]:
    base = ["strategy=fine_tune", "scenario=split_digits", *words]
    return [load_run([*base, f"seed={i}"]) for i in range(number)]


@pytest.mark.parametrize(
    ("number", "words", "workers", "says"),
    [
        (1, (), 1, None),
        (9, (), 2, None),
        (1, (), 9, None),  # the other workers have nothing to do
        (1, ("threads=2",), 1, None),
        (9, (), 3, "3 at a time x devices=1 x threads=1 want 3 cores, and there are 2"),
        (9, (), 3, "Lower --workers (now 3)."),
        (1, ("threads=4",), 1, "Lower threads (now 4)."),
        (2, ("threads=2",), 2, "Lower --workers (now 2) or threads (now 2)."),
        (1, ("devices=2", "accelerator=cpu", "threads=2"), 1, "Lower devices (now 2) or threads"),
    ],
)
def test_more_threads_than_cores(
    machine: Machine, number: int, words: tuple[str, ...], workers: int, says: str | None
) -> None:
    machine(2, 0.0)
    said = crowding(cells(number, *words), workers)
    assert (said is None) if says is None else (said is not None and says in said)


def test_the_largest_cell_counts(machine: Machine) -> None:
    machine(2, 0.0)
    said = crowding([*cells(1), *cells(1, "threads=3"), *cells(1)], 1)
    assert said is not None and "want 3 cores" in said


@pytest.mark.parametrize(
    ("load", "words", "says"),
    [
        (2.0, (), None),
        (2.6, (), "load average is 2.6 on 2 cores"),
        (2.6, (), "Keep threads=1, or wait"),
        (2.6, ("threads=2",), "Lower threads (now 2), or wait"),
    ],
)
def test_a_busy_machine(
    machine: Machine, load: float, words: tuple[str, ...], says: str | None
) -> None:
    machine(2, load)
    said = crowding(cells(1, *words), 1)
    assert (said is None) if says is None else (said is not None and says in said)


def test_nothing_to_run_is_no_crowd(machine: Machine) -> None:
    machine(1, 50.0)
    assert crowding([], 8) is None


def test_a_system_without_a_load_average(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    monkeypatch.setattr(module, "_cores", lambda: 2)
    assert crowding(cells(1), 1) is None


def test_a_grid_warns_once_and_only_when_it_runs(
    tmp_path: Path,
    machine: Machine,
    faked: Callable[..., Launch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(2, 7.5)
    (tmp_path / "g.yaml").write_text(GRID)
    out = StringIO()

    def run(**more: bool) -> str:
        spec, console = load_grid(tmp_path / "g.yaml", ()), Console(file=out)
        assert run_grid(spec, tmp_path / "runs", 1, console, launch=faked(), **more) == 0
        return capsys.readouterr().err

    assert run(dry_run=True) == ""
    said = run()
    assert said.startswith("warning: the load average is 7.5 on 2 cores")
    assert said.count("warning") == 1 and "warning" not in out.getvalue()
    assert run() == "", "there was nothing left to run"


def test_a_run_warns_as_well(
    tmp_path: Path,
    machine: Machine,
    faked: Callable[..., Launch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(1, 0.0)
    (cfg,) = cells(1, "threads=2", "track.enabled=false")
    assert run_one(cfg, tmp_path / "runs", Console(file=StringIO()), launch=faked()) == 0
    assert capsys.readouterr().err.count("Lower threads (now 2)") == 1
