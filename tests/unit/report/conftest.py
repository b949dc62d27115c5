"""A small grid with a failed and a missing cell, and the report on it, built once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic import config, write_cell, write_grid

from clframe.config.identity import run_id
from clframe.report import Report, build


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 strategies and a reference x 2 scenarios x 3 seeds; one cell failed, one never started."""
    folder = write_grid(tmp_path_factory.mktemp("runs") / "quick", updates=20, experiences=3)
    for seed in (1, 2):
        shutil.rmtree(folder / run_id(config("er_ace", "split_digits", seed)))
    lost = config("er_ace", "split_digits", 2)
    write_cell(folder, lost, None, [20] * 3, status="failed", error="the loss became NaN")
    return folder


@pytest.fixture(scope="session")
def report(finished: Path) -> Report:
    return build(finished, links={"overlay": "http://localhost:5000/#/metric?x=1"})


@pytest.fixture
def grid(finished: Path, tmp_path: Path) -> Path:
    """A copy of the grid, to break."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "quick"))
