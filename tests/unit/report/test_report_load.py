"""Every cell of a grid is listed with its state, whatever lies in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from synthetic import config

from clframe.config.identity import run_id
from clframe.errors import ClframeError
from clframe.report.load import Cell, load_cell, load_grid


def cell_of(grid: Path, strategy: str = "replay", seed: int = 0) -> Path:
    return grid / run_id(config(strategy, "split_fmnist", seed))


def state_of(grid: Path, folder: Path) -> Cell:
    return next(c for c in load_grid(grid).cells if c.id == folder.name)


def test_the_grid_file_says_which_cells_there_should_be(finished: Path) -> None:
    loaded = load_grid(finished)
    states = [c.state for c in loaded.cells]
    assert len(states) == 30
    assert (states.count("done"), states.count("failed"), states.count("missing")) == (28, 1, 1)
    failed = next(c for c in loaded.cells if c.state == "failed")
    assert (failed.strategy, failed.seed, failed.error) == ("er_ace", 2, "the loss became NaN")
    missing = next(c for c in loaded.cells if c.state == "missing")
    assert (missing.strategy, missing.scenario, missing.seed) == ("er_ace", "split_digits", 1)


def test_only_the_primary_readout_is_read(finished: Path) -> None:
    cell = load_cell(cell_of(finished))
    assert cell.primary == "net/seen"
    trace = cell.trace()
    assert trace.accuracy[-1] > 0.8  # the other readout of the file is half as good
    assert len(trace.accuracy) == 3 + 20 + 40 + 60 + 3  # start, seen, and to come at boundaries
    assert trace.iteration.tolist() == sorted(trace.iteration.tolist())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trace.parquet", b"not parquet", "trace.parquet|Parquet"),
        ("boundary.parquet", None, "boundary.parquet is missing"),
        ("metrics.json", b"{", "JSON"),
        ("record.json", b'{"id": 3}', "not a run's record"),
        ("config.yaml", b"a: [", "ParserError"),
    ],
)
def test_an_unreadable_cell_is_broken_and_says_why(
    grid: Path, name: str, content: bytes | None, words: str
) -> None:
    folder = cell_of(grid)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    cell = state_of(grid, folder)
    assert cell.state == "broken"
    assert cell.error is not None
    assert any(word in cell.error for word in words.split("|"))
    assert (cell.strategy, cell.scenario) == ("replay", "split_fmnist")


def test_a_trace_without_the_primary_readout_is_broken(grid: Path) -> None:
    folder = cell_of(grid)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"primary": "slow/seen"}))
    assert "no row of the readout 'slow/seen'" in str(state_of(grid, folder).error)


def test_a_running_cell_without_a_heartbeat_was_interrupted(grid: Path) -> None:
    folder = cell_of(grid)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"status": "running"}))
    cell = state_of(grid, folder)
    assert cell.state == "interrupted"
    assert "run the grid again" in str(cell.error)


def test_cells_that_the_grid_file_no_longer_asks_for_are_left_out_aloud(grid: Path) -> None:
    stray = grid / "split_fmnist-replay-s0-deadbeef"
    shutil.copytree(cell_of(grid), stray)
    loaded = load_grid(grid)
    assert stray.name not in {c.id for c in loaded.cells}
    assert loaded.warnings == (f"not in grid.yaml, and left out: {stray.name}",)


def test_a_folder_without_a_grid_file_is_taken_as_it_is(grid: Path) -> None:
    (grid / "grid.yaml").unlink()
    loaded = load_grid(grid)
    assert len(loaded.cells) == 29
    assert not loaded.warnings


def test_a_grid_file_that_cannot_be_read_here_is_a_warning(grid: Path) -> None:
    (grid / "grid.yaml").write_text("name: quick\naxes: {strategy: [no_such_method]}\n")
    loaded = load_grid(grid)
    assert len(loaded.done) == 28
    assert "no_such_method" in loaded.warnings[0]


def test_a_missing_folder_names_the_nearest_grid(grid: Path) -> None:
    with pytest.raises(ClframeError, match="Did you mean 'quick'") as error:
        load_grid(grid.parent / "quik")
    assert "Grids there: quick." in str(error.value)
    with pytest.raises(ClframeError, match="There are no grids there"):
        load_grid(grid.parent / "nowhere" / "quick")
