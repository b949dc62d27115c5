"""The still figures: one PNG per view and benchmark, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clframe.report import pens
from clframe.report.captions import BAR_TITLES, note_of
from clframe.report.curves import bins_for
from clframe.report.scene import (
    Scene,
    bar_range,
    overlay_bins,
    panel_bins,
    zoom_columns,
)
from clframe.report.style import GRID, INK, LOST, sequence

DPI = 110
Drawing = tuple[Figure, list[Line2D]]  # and what its legend shows


def save_all(scene: Scene, folder: Path, stem: str) -> list[Path]:
    """Write the figures of one benchmark as `<stem>-<view>.png`."""
    paths = []
    for view in scene.views:
        path = folder / f"{stem}-{view}.png"
        figure, handles = DRAW[view](scene)
        pens.finish(figure, pens.heading(scene, view), handles, note_of(view, scene))
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=DPI, facecolor="white")
        paths.append(path)
    return paths


def experiences(scene: Scene) -> Drawing:
    """A panel per method; in it a line per experience, from its own training on."""
    count = len(scene.methods)
    columns = 1 if count <= 3 else 2
    figure, axes = pens.panels(count, columns, panel_height=2.5, sharex=True, sharey=True)
    known = sorted({i for curves in scene.experiences.values() for i in curves})
    colors = dict(zip(known, sequence(len(known)), strict=True))
    bins = panel_bins(scene)
    for place, (ax, method) in enumerate(zip(axes, scene.methods, strict=True)):
        for i, curve in scene.experiences[method].items():
            pens.line(ax, curve, bins, colors[i], "-")
        pens.switches(ax, scene)
        ax.set_xlim(*scene.span)
        pens.accuracy_axis(ax, left=place % columns == 0, bottom=place + columns >= count)
        pens.title(ax, scene, method)
    handles = [Line2D([], [], color=colors[i], lw=2.5, label=scene.name(i)) for i in known]
    return figure, handles


def overlay(scene: Scene) -> Drawing:
    """All methods on experience 0 and on what came before, then a close-up of every switch."""
    zooms = len(scene.zooms)
    columns = zoom_columns(zooms)
    rows = -(-zooms // columns)
    figure = Figure(figsize=(pens.WIDTH, 6.6 + 2.5 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, columns, height_ratios=[1.15, 1.15, *[1.0] * rows])
    bins = overlay_bins(scene)
    first, previous = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    whole = {m: [c] for m, c in scene.first.items()}
    wide = zip((first, previous), (whole, scene.previous), scene.wide_titles, strict=True)
    for ax, curves, title in wide:
        for method, parts in curves.items():
            for curve in parts:
                pens.method_line(ax, curve, bins, scene.looks[method])
        pens.bounds(ax, scene, previous=ax is previous)
        pens.switches(ax, scene)
        pens.accuracy_axis(ax, left=True, bottom=True)
        ax.set_xlim(*scene.span)
        ax.set_title(title, loc="left", fontsize=11, pad=16)
    shared: Axes | None = None
    for place, zoom in enumerate(scene.zooms):
        ax = figure.add_subplot(grid[2 + place // columns, place % columns], sharey=shared)
        shared = shared or ax
        for method, curve in zoom.curves.items():
            pens.method_line(ax, curve, bins, scene.looks[method], dots=True)
        ax.axvline(zoom.at, color=INK, lw=1.0, ls="--")
        ax.set_xlim(zoom.first, zoom.last)
        pens.accuracy_axis(
            ax, left=place % columns == 0, bottom=place + columns >= zooms, fixed=False
        )
        ax.set_title(zoom.title, loc="left", fontsize=10)
    return figure, pens.method_handles(scene)


def relapses(scene: Scene) -> Drawing:
    """A panel per forgotten experience: all methods from just before its request to the end."""
    count = len(scene.relapses)
    columns = min(count, 3)
    figure, axes = pens.panels(count, columns, panel_height=2.7, sharey=True)
    bins = bins_for(count * len(scene.methods))
    for place, (ax, zoom) in enumerate(zip(axes, scene.relapses, strict=True)):
        for method, curve in zoom.curves.items():
            pens.method_line(ax, curve, bins, scene.looks[method])
        pens.switches(ax, scene, (zoom.first, zoom.last))
        ax.set_xlim(zoom.first, zoom.last)
        pens.accuracy_axis(ax, left=place % columns == 0, bottom=True)
        ax.set_title(zoom.title, loc="left", fontsize=10, color=LOST, pad=16)
    return figure, pens.method_handles(scene)


def matrices(scene: Scene) -> Drawing:
    """R of every method: accuracy after learning the row's experience, on the column's."""
    count = len(scene.heats)
    size = max(h.table.shape[0] for h in scene.heats.values())
    columns = min(count, 5 if size <= 5 else 4 if size <= 7 else 3 if size <= 10 else 2)
    side = pens.WIDTH / columns
    figure, axes = pens.panels(count, columns, panel_height=side * 0.88)
    image = None
    for ax, (method, heat) in zip(axes, scene.heats.items(), strict=True):
        image = ax.imshow(heat.table * 100, vmin=0, vmax=100, cmap="cividis", aspect="equal")
        font = float(np.clip(62 * side / pens.WIDTH * 3 / heat.table.shape[1], 5.5, 12))
        for k, i in np.argwhere(~np.isnan(heat.table)):
            value = heat.table[k, i] * 100
            color = "black" if value > 55 else "white"
            weight = "bold" if heat.rows[k] == heat.columns[i] else "normal"
            ax.text(i, k, f"{value:.0f}", ha="center", va="center", fontsize=font, color=color,
                    weight=weight)  # fmt: skip
        rows, names = scene.ticks(heat)
        ax.set_xticks(range(len(names)), names, fontsize=8)
        ax.set_yticks(range(len(rows)), rows, fontsize=8)
        ax.set_xlabel("tested on experience", fontsize=8)
        ax.set_ylabel("after experience", fontsize=8)
        pens.title(ax, scene, method, pad=6)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.6, aspect=35, label="accuracy [%]", pad=0.01)
    return figure, []


def gap_bars(scene: Scene) -> Drawing:
    """How deep each method falls and whether it comes back: mean, interval, seeds."""
    count, columns = len(scene.methods), len(scene.bars)
    figure, axes = pens.panels(columns, columns, panel_height=1.5 + 0.42 * count, sharey=True)
    for ax, (column, bars) in zip(axes, scene.bars, strict=True):
        for place, bar in enumerate(bars):
            pens.bar(ax, place, bar, scene.looks[bar.method])
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks(range(count), [bar.method for bar in bars], fontsize=10)
        ax.set_ylim(count - 0.4, -0.6)
        ax.set_xlabel(f"[{column.unit}]", fontsize=9)
        ax.set_title(BAR_TITLES[column.key], fontsize=10)
        ax.set_xlim(*bar_range(column, bars))
        pens.plain(ax)
        ax.grid(axis="x", color=GRID, lw=0.8)
    return figure, []


DRAW: dict[str, Callable[[Scene], Drawing]] = {
    "experiences": experiences,
    "overlay": overlay,
    "matrix": matrices,
    "gap": gap_bars,
    "relapse": relapses,
}
