"""From a grid's folder to its report: figures, tables and one page that holds them all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clframe.errors import ClframeError
from clframe.report import figures, views
from clframe.report.captions import VIEW_TITLES, note_of
from clframe.report.compare import aggregate_table, choose_baseline, paired_table
from clframe.report.groups import Group, Naming, by_benchmark
from clframe.report.html import Plot, Section, page
from clframe.report.load import Cell, Grid, load_grid
from clframe.report.plots import save_all
from clframe.report.scene import Scene, build_scene
from clframe.report.style import looks
from clframe.report.tables import (
    Table,
    cells_table,
    cost_table,
    metrics_table,
    seeds_table,
    settings_table,
    warnings_of,
)
from clframe.report.unlearning import requests_table, unlearning_table, unlearning_views
from clframe.report.values import Values, cell_values
from clframe.report.write import by_column, write_csv, write_json, write_markdown

__all__ = ["Report", "build", "by_column"]


@dataclass(frozen=True)
class Report:
    """What was written: the page, all files with it, every table as records, and a few lines."""

    html: Path
    files: list[Path]
    tables: dict[str, Table]
    summary: str


@dataclass(frozen=True)
class _Study:
    """A grid that has been read: its finished cells in groups, and their numbers."""

    grid: Grid
    naming: Naming
    groups: list[Group]
    values: dict[str, Values]
    baseline: str | None


def build(
    grid_folder: Path, *, baseline: str | None = None, links: Mapping[str, str] | None = None
) -> Report:
    """Write `<grid_folder>/report/` anew and say what is in it.

    `baseline` is a strategy or a method's label; `links` are names and addresses shown at the top.
    """
    study = _study(Path(grid_folder), baseline)
    folder = Path(grid_folder) / "report"
    _clear(folder)
    tables = _tables(study)
    style = looks(study.groups)
    members = by_benchmark(study.groups)
    found = [build_scene(groups, study.values, style) for groups in members.values()]
    scenes = [scene for scene in found if scene is not None]
    status, alarms = _status(study), _alarms(study)
    shown = _views(study, tables)
    title = f"Grid {study.grid.name}"
    html = folder / "report.html"
    html.write_text(page(title, status, alarms, links or {}, _sections(scenes, shown)))
    files = [html, write_json(tables, folder / "tables.json")]
    everything = [view for group in shown.values() for view in group]
    files.append(write_markdown(title, [*status, *alarms], everything, folder / "report.md"))
    files += [write_csv(table, folder / f"{name}.csv") for name, table in tables.items() if table]
    for scene in scenes:
        files += save_all(scene, folder, slug(scene.benchmark))
    return Report(html, files, tables, _summary(status, alarms, tables["metrics"], html))


def slug(benchmark: str) -> str:
    """A benchmark's name as part of a file's."""
    return re.sub(r"[^\w.+-]+", "_", benchmark)


def _study(folder: Path, baseline: str | None) -> _Study:
    grid = load_grid(folder)
    naming = Naming.of(grid.cells)
    values, broken = cell_values(naming.groups(grid.done))
    if broken:
        cells = tuple(_marked(cell, broken.get(cell.id)) for cell in grid.cells)
        grid = replace(grid, cells=cells)
    if not grid.done:
        states = "; ".join([*_failures(grid, naming), *grid.warnings]) or "it has no cells"
        raise ClframeError(
            f"no cell of {grid.name!r} has finished: {states}.\n"
            "Run the grid again: it goes on with what is missing."
        )
    groups = naming.groups(grid.done)
    return _Study(grid, naming, groups, values, choose_baseline(groups, baseline))


def _marked(cell: Cell, problem: str | None) -> Cell:
    return cell if problem is None else replace(cell, state="broken", error=problem)


def _tables(study: _Study) -> dict[str, Table]:
    groups, values = study.groups, study.values
    return {
        "metrics": metrics_table(groups, values),
        "paired": paired_table(groups, values, study.baseline),
        "aggregate": aggregate_table(groups, values, study.baseline),
        "unlearning": unlearning_table(groups),
        "requests": requests_table(groups),
        "cost": cost_table(groups),
        "seeds": seeds_table(groups, values),
        "cells": cells_table(study.grid, study.naming),
        "settings": settings_table(study.grid.done, study.baseline),
    }


def _views(study: _Study, tables: Mapping[str, Table]) -> dict[str, list[views.View]]:
    """The tables of each section of the report: one per benchmark, then those of the whole grid."""
    shown: dict[str, list[views.View]] = {}
    for benchmark in by_benchmark(study.groups):
        paired = views.paired_view(tables["paired"], benchmark)
        shown[benchmark] = views.metric_views(tables["metrics"], benchmark)
        shown[benchmark] += [paired] if paired else []
        shown[benchmark] += unlearning_views(tables["unlearning"], tables["requests"], benchmark)
    over = views.aggregate_view(tables["aggregate"], study.baseline)
    shown["Over all benchmarks"] = [over] if over else []
    shown["Cost"] = [views.cost_view(tables["cost"])]
    shown["Cells"] = [views.cells_view(tables["cells"])]
    shown["Settings"] = [views.settings_view(tables["settings"])]
    return {name: group for name, group in shown.items() if group}


def _sections(scenes: Sequence[Scene], shown: Mapping[str, list[views.View]]) -> list[Section]:
    plots = {
        scene.benchmark: [
            Plot(
                f"{slug(scene.benchmark)}-{view}",
                VIEW_TITLES[view],
                figures.DRAW[view](scene),
                note_of(view, scene),
            )
            for view in scene.views
        ]
        for scene in scenes
    }
    return [
        Section(slug(name), name, plots.get(name, ()), group, name in ("Cells", "Settings"))
        for name, group in shown.items()
    ]


def _status(study: _Study) -> list[str]:
    done, cells = study.grid.done, study.grid.cells
    seeds = sorted({c.seed for c in done})
    return [
        f"{len(done)} of {len(cells)} cells finished.",
        f"Seeds {', '.join(map(str, seeds))}. Baseline: {study.baseline or 'none'}.",
    ]


def _failures(grid: Grid, naming: Naming) -> list[str]:
    return [
        f"{naming.benchmarks[c.id]}, {naming.methods[c.id].label}, seed {c.seed}: {c.state}"
        + (f" ({c.error.splitlines()[0]})" if c.error else "")
        for c in grid.cells
        if c.state != "done"
    ]


def _alarms(study: _Study) -> list[str]:
    """What a reader must not overlook: cells without numbers, and limits of what is shown."""
    few = min(len(g.cells) for g in study.groups)
    caution = [f"some methods have only {few} finished seed(s)"] * (few < 3)
    return [
        *_failures(study.grid, study.naming),
        *study.grid.warnings,
        *warnings_of(study.grid.done),
        *caution,
    ]


def _summary(status: Sequence[str], alarms: Sequence[str], metrics: Table, html: Path) -> str:
    """A few lines for the terminal: how it went, three numbers per method, where the page is."""
    lines = [*status, *(f"! {alarm}" for alarm in alarms)]
    width = max((len(r["method"]) for r in metrics), default=0)
    for benchmark in dict.fromkeys(r["benchmark"] for r in metrics):
        lines.append(benchmark)
        own = [r for r in metrics if r["benchmark"] == benchmark]
        for method in dict.fromkeys(r["method"] for r in own):
            numbers = {r["metric"]: r for r in own if r["method"] == method}
            told = [
                f"{numbers[key]['label']} {numbers[key]['mean']:.1f}"
                for key in ("acc", "min_acc", "depth")
                if numbers.get(key, {}).get("mean") is not None
            ]
            lines.append(f"  {method:<{width}} {'  '.join(told)}")
    return "\n".join([*lines, f"report: {html}"])


def _clear(folder: Path) -> None:
    """Drop an earlier report, which may show cells that are no more."""
    folder.mkdir(exist_ok=True)
    for pattern in ("*.png", "*.csv", "report.html", "report.md", "tables.json"):
        for path in folder.glob(pattern):
            path.unlink()
