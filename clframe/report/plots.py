"""The still figures: one PNG per view and benchmark, drawn with matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clframe.report.captions import BAR_TITLES, VIEW_TITLES, note_of
from clframe.report.curves import Curve
from clframe.report.scene import Bar, Scene, bar_range, overlay_bins, panel_bins, zoom_columns
from clframe.report.style import FAINT, INK, Look, sequence

WIDTH, DPI = 13.0, 110
Draw = Callable[[Scene], Figure]


def save_all(scene: Scene, folder: Path, stem: str) -> list[Path]:
    """Write the figures of one benchmark as `<stem>-<view>.png`."""
    views: dict[str, Draw] = {
        "experiences": experiences,
        "overlay": overlay,
        "matrix": matrices,
        "gap": gap_bars,
    }
    paths = []
    for view, draw in views.items():
        path = folder / f"{stem}-{view}.png"
        figure = draw(scene)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=DPI, facecolor="white")
        paths.append(path)
    return paths


def experiences(scene: Scene) -> Figure:
    """A panel per method; in it a line per experience, from its own training on."""
    count = len(scene.methods)
    columns = 1 if count <= 3 else 2
    rows = -(-count // columns)
    figure, axes = _panels(rows, columns, panel_height=2.5, sharex=True, sharey=True)
    known = sorted({i for curves in scene.experiences.values() for i in curves})
    colors = dict(zip(known, sequence(len(known)), strict=True))
    bins = panel_bins(scene)
    for place, ax in enumerate(axes):
        if place >= count:
            ax.set_visible(False)
            continue
        method = scene.methods[place]
        for i, curve in scene.experiences[method].items():
            _line(ax, curve, bins, colors[i], "-")
        _switches(ax, scene)
        ax.set_xlim(*_span(scene))
        _accuracy_axis(ax, left=place % columns == 0, bottom=place + columns >= count)
        _title(ax, scene, method)
    handles = [Line2D([], [], color=colors[i], lw=2.5, label=f"experience {i}") for i in known]
    _finish(figure, _heading(scene, "experiences"), handles, note_of("experiences", scene))
    return figure


def overlay(scene: Scene) -> Figure:
    """All methods on experience 0 and on what came before, then a close-up of every switch."""
    zooms = len(scene.zooms)
    columns = zoom_columns(zooms)
    rows = -(-zooms // columns)
    figure = Figure(figsize=(WIDTH, 6.6 + 2.5 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, columns, height_ratios=[1.15, 1.15, *[1.0] * rows])
    bins = overlay_bins(scene)
    first, previous = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    for ax, curves, title in (
        (first, {m: [c] for m, c in scene.first.items()}, f"Experience {scene.axis.positions[0]}"),
        (previous, scene.previous, "Mean of all experiences before the current one"),
    ):
        for method, parts in curves.items():
            for curve in parts:
                _method_line(ax, curve, bins, scene.looks[method])
        _bounds(ax, scene, previous=ax is previous)
        _switches(ax, scene)
        _accuracy_axis(ax, left=True, bottom=True)
        ax.set_xlim(*_span(scene))
        ax.set_title(title, loc="left", fontsize=11, pad=16)
    shared: Axes | None = None
    for place, zoom in enumerate(scene.zooms):
        ax = figure.add_subplot(grid[2 + place // columns, place % columns], sharey=shared)
        shared = shared or ax
        for method, curve in zoom.curves.items():
            _method_line(ax, curve, bins, scene.looks[method], dots=True)
        ax.axvline(zoom.at, color=INK, lw=1.0, ls="--")
        ax.set_xlim(zoom.first, zoom.last)
        _accuracy_axis(ax, left=place % columns == 0, bottom=place + columns >= zooms, fixed=False)
        ax.set_title(f"Switch to {zoom.learned}: mean of all before", loc="left", fontsize=10)
    _finish(figure, _heading(scene, "overlay"), _method_handles(scene), note_of("overlay", scene))
    return figure


def matrices(scene: Scene) -> Figure:
    """R of every method: accuracy after learning the row's experience, on the column's."""
    count = len(scene.heats)
    size = max(h.table.shape[0] for h in scene.heats.values())
    columns = min(count, 5 if size <= 5 else 4 if size <= 7 else 3 if size <= 10 else 2)
    rows = -(-count // columns)
    side = WIDTH / columns
    figure, axes = _panels(rows, columns, panel_height=side * 0.88)
    image = None
    for ax, (method, heat) in zip(axes, scene.heats.items(), strict=False):
        image = ax.imshow(heat.table * 100, vmin=0, vmax=100, cmap="cividis", aspect="equal")
        font = float(np.clip(62 * side / WIDTH * 3 / heat.table.shape[1], 5.5, 12))
        for k, i in np.argwhere(~np.isnan(heat.table)):
            value = heat.table[k, i] * 100
            color = "black" if value > 55 else "white"
            weight = "bold" if heat.rows[k] == heat.columns[i] else "normal"
            ax.text(i, k, f"{value:.0f}", ha="center", va="center", fontsize=font, color=color,
                    weight=weight)  # fmt: skip
        ax.set_xticks(range(len(heat.columns)), [str(i) for i in heat.columns], fontsize=8)
        ax.set_yticks(range(len(heat.rows)), [str(k) for k in heat.rows], fontsize=8)
        ax.set_xlabel("tested on experience", fontsize=8)
        ax.set_ylabel("after learning experience", fontsize=8)
        _title(ax, scene, method, pad=6)
    for ax in axes[count:]:
        ax.set_visible(False)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.6, aspect=35, label="accuracy [%]", pad=0.01)
    _finish(figure, _heading(scene, "matrix"), [], note_of("matrix", scene))
    return figure


def gap_bars(scene: Scene) -> Figure:
    """How deep each method falls and whether it comes back: mean, interval, seeds."""
    count = len(scene.methods)
    figure, axes = _panels(1, len(scene.bars), panel_height=1.5 + 0.42 * count, sharey=True)
    for ax, (column, bars) in zip(axes, scene.bars, strict=True):
        for place, bar in enumerate(bars):
            _bar(ax, place, bar, scene.looks[bar.method])
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks(range(count), [bar.method for bar in bars], fontsize=10)
        ax.set_ylim(count - 0.4, -0.6)
        ax.set_xlabel(f"[{column.unit}]", fontsize=9)
        ax.set_title(BAR_TITLES[column.key], fontsize=10)
        ax.set_xlim(*bar_range(column, bars))
        _plain(ax)
        ax.grid(axis="x", color="#E5E7EB", lw=0.8)
    _finish(figure, _heading(scene, "gap"), [], note_of("gap", scene))
    return figure


def _title(ax: Axes, scene: Scene, method: str, pad: float = 16) -> None:
    color = scene.looks[method].color
    ax.set_title(method, loc="left", fontsize=11, color=color, weight="bold", pad=pad)


def _heading(scene: Scene, view: str) -> str:
    return f"{scene.benchmark}: {VIEW_TITLES[view]}"


def _panels(
    rows: int, columns: int, *, panel_height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, panel_height * rows + 1.0), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(axes.ravel())


def _line(ax: Axes, curve: Curve, bins: int, color: str, style: str, **kwargs: Any) -> None:
    mean, low, high = curve.thinned(bins)
    width = 1.3 if len(mean.steps) < 2000 else 0.9
    ax.plot(mean.steps, mean.values * 100, color=color, ls=style, lw=width, **kwargs)
    if curve.seeds > 1:
        x = np.concatenate([high.steps, low.steps[::-1]])
        y = np.concatenate([high.values, low.values[::-1]]) * 100
        ax.fill(x, y, color=color, alpha=0.16, lw=0)


def _method_line(ax: Axes, curve: Curve, bins: int, look: Look, dots: bool = False) -> None:
    few = dots and len(curve.steps) <= 60
    marks = {"marker": look.marker, "markersize": 3.2} if few else {}
    _line(ax, curve, bins, look.color, look.line, **marks)


def _bounds(ax: Axes, scene: Scene, *, previous: bool) -> None:
    for method, bound in scene.bounds.items():
        look = scene.looks[method]
        x, y = (bound.previous_steps, bound.previous) if previous else (bound.steps, bound.first)
        ax.plot(x, np.array(y) * 100, color=look.color, ls=look.line, lw=1.1, marker=look.marker,
                markersize=7, zorder=1)  # fmt: skip


def _bar(ax: Axes, place: int, bar: Bar, look: Look) -> None:
    if bar.mean is None:
        ax.text(0.02, place, "none", transform=ax.get_yaxis_transform(), va="center",
                fontsize=9, color=FAINT, style="italic")  # fmt: skip
        return
    ax.barh(place, bar.mean, height=0.62, color=look.color, alpha=0.45)
    if bar.half is not None:
        ax.errorbar(bar.mean, place, xerr=bar.half, color=INK, capsize=3, lw=1.3)
    spread = np.linspace(-0.14, 0.14, len(bar.points)) if len(bar.points) > 1 else [0.0]
    ax.scatter(bar.points, place + np.asarray(spread), s=16, color=look.color, edgecolor="white",
               linewidth=0.5, zorder=3)  # fmt: skip


def _switches(ax: Axes, scene: Scene) -> None:
    for _, at in scene.axis.switches:
        ax.axvline(at, color=FAINT, lw=0.9, ls="--", zorder=0)
    edges = scene.axis.edges
    for k, begin, end in zip(scene.axis.positions, edges[:-1], edges[1:], strict=True):
        ax.text(
            (begin + end) / 2, 103, str(k), ha="center", va="bottom", fontsize=8, color="#6B7280"
        )


def _accuracy_axis(ax: Axes, *, left: bool, bottom: bool, fixed: bool = True) -> None:
    if fixed:
        ax.set_ylim(-2, 102)
    ax.set_ylabel("accuracy [%]" if left else "", fontsize=9)
    ax.set_xlabel("iteration [updates]" if bottom else "", fontsize=9)
    ax.tick_params(labelbottom=bottom or not fixed)
    _plain(ax)
    ax.grid(axis="y", color="#E5E7EB", lw=0.7)


def _plain(ax: Axes) -> None:
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8.5, color=FAINT)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)


def _span(scene: Scene) -> tuple[float, float]:
    return 0.0, float(scene.axis.edges[-1])


def _method_handles(scene: Scene) -> list[Line2D]:
    handles = []
    for method in [*scene.methods, *scene.bounds]:
        look = scene.looks[method]
        marker = look.marker if method in scene.bounds else None
        label = f"{method} (bound)" if method in scene.bounds else method
        handles.append(
            Line2D([], [], color=look.color, ls=look.line, lw=2.2, marker=marker, label=label)
        )
    return handles


def _finish(figure: Figure, title: str, handles: Sequence[Line2D], note: str) -> None:
    """Title and legend above the panels, caption below; none of them over another."""
    bold = {"size": 14, "weight": "bold"}
    if handles:
        columns = min(len(handles), _legend_columns(h.get_label() for h in handles))
        further = -(-len(handles) // columns) - 1
        figure.set_figheight(figure.get_figheight() + 0.22 * further)
        figure.legend(
            handles=list(handles),
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            title=title,
            title_fontproperties=bold,
            alignment="left",
            borderpad=0.2,
        )
    else:
        figure.suptitle(title, x=0.01, ha="left", fontproperties=bold, color=INK)
    lines = textwrap.fill(note, int(figure.get_figwidth() * 14))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=8.5, color="#4B5563")


def _legend_columns(labels: Iterable[object]) -> int:
    """As many columns as fit the figure's width at about 13 characters an inch."""
    widest = max(len(str(label)) for label in labels) + 7
    return max(1, int(WIDTH * 11 / widest))
