"""What is averaged over seeds when their streams are not of one length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import accuracies, config, write_cell

from clframe.report import build
from clframe.report.captions import matrix_note
from clframe.report.groups import Naming
from clframe.report.load import load_cell
from clframe.report.scene import Scene, build_scene
from clframe.report.style import looks
from clframe.report.values import cell_values, matrix

LENGTHS = ([9, 12], [10, 10, 8], [9, 9, 9, 9])  # updates in each experience, by seed


def scene(folder: Path, seeds: dict[str, tuple[int, ...]]) -> tuple[Scene, dict[str, list]]:
    """The scene of these strategies' seeds, and R of each seed."""
    folder.mkdir()
    cells = []
    for strategy, numbers in seeds.items():
        for seed in numbers:
            table = accuracies(strategy, LENGTHS[seed], np.random.default_rng(seed))
            write_cell(folder, config(strategy, "blurry_digits", seed), table, LENGTHS[seed])
    cells = [load_cell(path) for path in sorted(folder.iterdir())]
    groups = Naming.of(cells).groups(cells)
    values, broken = cell_values(groups)
    assert not broken
    made = build_scene(groups, values, looks(groups))
    assert made is not None
    tables = {g.method.label: [matrix(c.boundary())[0] for c in g.cells] for g in groups}
    return made, tables


def test_every_seed_counts_as_far_as_its_stream_goes(tmp_path: Path) -> None:
    made, tables = scene(tmp_path / "grid", {"replay": (0, 1, 2), "joint": (0, 1, 2)})
    for method, heat in made.heats.items():
        short, middle, long = tables[method]
        assert heat.rows == heat.columns == [0, 1, 2, 3] and not heat.even
        assert np.allclose(heat.table[:2, :2], (short + middle[:2, :2] + long[:2, :2]) / 3)
        assert np.allclose(heat.table[2, :3], (middle[2] + long[2, :3]) / 2)
        assert np.allclose(heat.table[3], long[3])
    assert "over the seeds that have it" in matrix_note(made)
    assert len(made.bounds["joint"].steps) == 4


def test_a_reference_may_go_further_than_any_method(tmp_path: Path) -> None:
    made, _ = scene(tmp_path / "grid", {"replay": (0, 1), "joint": (0, 1, 2), "independent": (2,)})
    assert made.axis.positions == (0, 1, 2)
    assert {len(b.steps) for b in made.bounds.values()} == {3}
    assert {len(b.first) for b in made.bounds.values()} == {3}


@pytest.mark.filterwarnings("error")
def test_the_report_of_streams_that_differ_is_written(tmp_path: Path) -> None:
    scene(tmp_path / "grid", {"replay": (0, 1), "joint": (0, 1, 2)})
    page = build(tmp_path / "grid").html.read_text()
    assert "over the seeds that have it" in page


def test_equal_streams_need_no_note(tmp_path: Path) -> None:
    made, tables = scene(tmp_path / "grid", {"replay": (1,)})
    assert np.array_equal(made.heats["replay"].table, tables["replay"][0], equal_nan=True)
    assert made.heats["replay"].even and "have it" not in matrix_note(made)
