"""The report as a whole: files, the page without a network, the pictures, the errors."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from plotly.offline import get_plotlyjs
from synthetic import config, ordered, parquet, write_cell, write_grid

from clframe.config.identity import run_id
from clframe.errors import ClframeError
from clframe.report import Report, build, by_column

VIEWS = ("experiences", "overlay", "matrix", "gap")


def own_html(report: Report) -> str:
    """The page without the plotting library's own code."""
    page = report.html.read_text()
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def test_it_writes_figures_tables_and_one_page(report: Report, finished: Path) -> None:
    names = {p.name for p in report.files}
    assert {f"{s}-{v}.png" for s in ("split_digits", "split_fmnist") for v in VIEWS} <= names
    assert {"report.html", "report.md", "tables.json", "metrics.csv", "paired.csv"} <= names
    assert all(p.is_file() and p.parent == finished / "report" for p in report.files)
    assert report.html == finished / "report" / "report.html"


def test_the_page_needs_no_network(report: Report) -> None:
    page = own_html(report)
    assert "cdn" not in page.lower()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=", page)
    assert not re.findall(r"@import|url\(", page)
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://localhost:5000/#/metric?x=1", "https://plot.ly"}


def test_the_page_holds_figures_tables_cells_settings_and_links(report: Report) -> None:
    page = own_html(report)
    for benchmark in ("split_digits", "split_fmnist"):
        assert all(f'id="{benchmark}-{view}"' in page for view in VIEWS)
    assert "28 of 30 cells finished." in page
    assert "er_ace, seed 2: failed (the loss became NaN)" in page
    assert "er_ace, seed 1: missing (never started)" in page
    assert '<a href="http://localhost:5000/#/metric?x=1">overlay</a>' in page
    for words in ("evaluated every ρ updates", "joint (bound)", "Differences to the baseline"):
        assert words in page


@pytest.mark.parametrize("view", VIEWS)
def test_pictures_are_not_blank(report: Report, view: str) -> None:
    pixels = imread(report.html.parent / f"split_digits-{view}.png")[..., :3]
    assert pixels.shape[1] > 1000
    inked = (pixels < 0.9).any(axis=2)
    assert 0.01 < inked.mean() < 0.9
    halves = np.array_split(inked, 2, axis=0) + np.array_split(inked, 2, axis=1)
    assert all(half.mean() > 0.003 for half in halves)


def test_tables_in_files_are_those_in_hand(report: Report) -> None:
    stored = json.loads((report.html.parent / "tables.json").read_text())
    assert stored == report.tables
    with (report.html.parent / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.tables["metrics"])
    for row, record in zip(rows, report.tables["metrics"], strict=True):
        assert row["mean"] == ("" if record["mean"] is None else str(record["mean"]))
    text = (report.html.parent / "report.md").read_text()
    assert "| method | n | ACC [%]" in text
    columns = by_column(report.tables["cost"])
    assert {len(column) for column in columns.values()} == {len(report.tables["cost"])}


def test_numbers_are_those_of_the_runs(report: Report, finished: Path) -> None:
    found = []
    for seed in range(3):
        folder = finished / run_id(config("replay", "split_fmnist", seed))
        found.append(json.loads((folder / "metrics.json").read_text())["gap"]["depth_mean"] * 100)
    row = next(
        r
        for r in report.tables["metrics"]
        if (r["benchmark"], r["method"], r["metric"]) == ("split_fmnist", "replay", "depth")
    )
    assert row["mean"] == pytest.approx(np.mean(found))
    assert (row["n"], row["nulls"]) == (3, 0)
    paired = [r for r in report.tables["paired"] if r["metric"] == "acc"]
    assert {r["baseline"] for r in paired} == {"fine_tune"}
    assert {(r["method"], r["benchmark"]): r["n"] for r in paired}["er_ace", "split_digits"] == 1


def test_the_summary_tells_what_to_know(report: Report) -> None:
    assert report.summary.splitlines()[0] == "28 of 30 cells finished."
    assert "! split_digits, er_ace, seed 2: failed (the loss became NaN)" in report.summary
    assert re.search(r"replay +ACC \d+\.\d  min-ACC \d+\.\d  gap depth \d+\.\d", report.summary)
    assert report.summary.endswith(f"report: {report.html}")


def test_the_same_grid_gives_the_same_bytes_and_old_pictures_go(tmp_path: Path) -> None:
    small = {"strategies": ["replay"], "scenarios": ["split_fmnist"], "seeds": 2, "updates": 8}
    folder = write_grid(tmp_path / "small", experiences=2, **small)
    first = {p.name: p.read_bytes() for p in build(folder).files}
    (folder / "report" / "gone_benchmark-gap.png").write_bytes(b"old")
    (folder / "report" / "notes.txt").write_text("mine")
    second = {p.name: p.read_bytes() for p in build(folder).files}
    assert first == second
    assert not (folder / "report" / "gone_benchmark-gap.png").exists()
    assert (folder / "report" / "notes.txt").read_text() == "mine"


def test_errors_name_what_is_wrong(grid: Path) -> None:
    with pytest.raises(ClframeError, match="Did you mean 'quick'"):
        build(grid.parent / "quik")
    with pytest.raises(ClframeError, match="no finished method 'reply'"):
        build(grid, baseline="reply")
    for folder in grid.glob("split_*"):
        (folder / "trace.parquet").unlink(missing_ok=True)
    with pytest.raises(ClframeError, match=r"no cell of 'quick' has finished.*broken"):
        build(grid)


def test_a_cell_that_contradicts_itself_is_listed_as_broken(tmp_path: Path) -> None:
    grid = write_grid(
        tmp_path / "g", strategies=["replay", "joint"], scenarios=["split_digits"], experiences=2
    )
    folder = grid / run_id(config("joint", "split_digits", 0))
    parquet([(0, 0, 0, 0.1), (5, 1, 0, 0.4)], folder / "boundary.parquet")
    report = build(grid)
    state = {r["cell"]: (r["state"], r["error"]) for r in report.tables["cells"]}[folder.name]
    assert state[0] == "broken"
    row = next(
        r
        for r in report.tables["metrics"]
        if (r["benchmark"], r["method"], r["metric"]) == ("split_digits", "replay", "intransigence")
    )
    assert (row["n"], row["nulls"]) == (2, 1)  # seed 0 has lost its reference


def test_one_experience_and_one_seed_are_enough(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path / "one", strategies=["replay"], scenarios=["split_fmnist"], seeds=1, experiences=1
    )
    report = build(folder)
    depth = next(r for r in report.tables["metrics"] if r["metric"] == "depth")
    assert (depth["mean"], depth["nulls"]) == (None, 1)
    assert report.tables["paired"] == []
    assert len([p for p in report.files if p.suffix == ".png"]) == 4


def test_references_alone_have_tables_and_no_figures(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path / "refs", strategies=["joint"], scenarios=["split_fmnist"], experiences=2
    )
    report = build(folder)
    assert not [p for p in report.files if p.suffix == ".png"]
    assert {r["metric"] for r in report.tables["metrics"]} >= {"acc", "learning_acc"}
    assert "plotly" not in report.html.read_text()


def test_what_was_forgotten_leaves_the_averages(tmp_path: Path) -> None:
    """Positions: learn 0, learn 1, forget 0. R keeps position 1 alone."""
    cfg = config("replay", "split_digits", 0, requests="L0 L1 F0")
    table = np.full((13, 3), 0.0)
    table[:, 0] = np.linspace(0.1, 0.9, 13)
    table[:, 1] = 0.6
    write_cell(tmp_path / "solo", cfg, table, [4, 4, 4], stream=ordered("L0 L1 U0"))
    report = build(tmp_path / "solo")
    acc = next(r for r in report.tables["metrics"] if r["metric"] == "acc")
    assert acc["mean"] == pytest.approx(60.0)
    assert "13" not in report.summary.splitlines()[0]


def test_a_report_is_made_without_torch_or_mlflow() -> None:
    code = "import sys, clframe.report; print({'torch', 'mlflow', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
