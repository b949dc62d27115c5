"""The strokes of the still figures: panels, lines with bands, bars, switches, titles."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clframe.report.captions import VIEW_TITLES
from clframe.report.curves import Curve
from clframe.report.scene import Bar, Scene, stages
from clframe.report.style import FAINT, GREY, GRID, INK, LOST, Look

WIDTH = 13.0  # inches


def title(ax: Axes, scene: Scene, method: str, pad: float = 16) -> None:
    color = scene.looks[method].color
    ax.set_title(method, loc="left", fontsize=11, color=color, weight="bold", pad=pad)


def heading(scene: Scene, view: str) -> str:
    return f"{scene.benchmark}: {VIEW_TITLES[view]}"


def panels(
    count: int, columns: int, *, panel_height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels; what is left of the last row stays empty."""
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, panel_height * rows + 1.0), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for surplus in axes[count:]:
        surplus.set_visible(False)
    return figure, list(axes[:count])


def line(ax: Axes, curve: Curve, bins: int, color: str, style: str, **kwargs: Any) -> None:
    mean, low, high = curve.thinned(bins)
    width = 1.3 if len(mean.steps) < 2000 else 0.9
    ax.plot(mean.steps, mean.values * 100, color=color, ls=style, lw=width, **kwargs)
    if curve.seeds > 1:
        x = np.concatenate([high.steps, low.steps[::-1]])
        y = np.concatenate([high.values, low.values[::-1]]) * 100
        ax.fill(x, y, color=color, alpha=0.16, lw=0)


def method_line(ax: Axes, curve: Curve, bins: int, look: Look, dots: bool = False) -> None:
    few = dots and len(curve.steps) <= 60
    marks = {"marker": look.marker, "markersize": 3.2} if few else {}
    line(ax, curve, bins, look.color, look.line, **marks)


def bounds(ax: Axes, scene: Scene, *, previous: bool) -> None:
    for method, bound in scene.bounds.items():
        look = scene.looks[method]
        x, y = (bound.previous_steps, bound.previous) if previous else (bound.steps, bound.first)
        ax.plot(x, np.array(y) * 100, color=look.color, ls=look.line, lw=1.1, marker=look.marker,
                markersize=7, zorder=1)  # fmt: skip


def bar(ax: Axes, place: int, bar: Bar, look: Look) -> None:
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


def switches(ax: Axes, scene: Scene, window: tuple[float, float] | None = None) -> None:
    for _, at in scene.axis.switches:
        ax.axvline(at, color=FAINT, lw=0.9, ls="--", zorder=0)
    for stage in stages(scene, window or scene.span):
        color = LOST if stage.forgets else GREY
        if stage.forgets:
            ax.axvspan(stage.begin, stage.end, color=LOST, alpha=0.13, lw=0, zorder=0)
            ax.axvline(stage.begin, color=LOST, lw=0.9, ls="--", zorder=0)
        ax.text(stage.middle, 103, stage.name, ha="center", va="bottom", fontsize=8, color=color,
                clip_on=False)  # fmt: skip


def accuracy_axis(ax: Axes, *, left: bool, bottom: bool, fixed: bool = True) -> None:
    if fixed:
        ax.set_ylim(-2, 102)
    ax.set_ylabel("accuracy [%]" if left else "", fontsize=9)
    ax.set_xlabel("iteration [updates]" if bottom else "", fontsize=9)
    ax.tick_params(labelbottom=bottom or not fixed)
    plain(ax)
    ax.grid(axis="y", color=GRID, lw=0.7)


def plain(ax: Axes) -> None:
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8.5, color=FAINT)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)


def method_handles(scene: Scene) -> list[Line2D]:
    handles = []
    for method in [*scene.methods, *scene.bounds]:
        look = scene.looks[method]
        marker = look.marker if method in scene.bounds else None
        label = f"{method} (bound)" if method in scene.bounds else method
        handles.append(
            Line2D([], [], color=look.color, ls=look.line, lw=2.2, marker=marker, label=label)
        )
    return handles


def finish(figure: Figure, title: str, handles: Sequence[Line2D], note: str) -> None:
    """Title and legend above the panels, caption below; none of them over another."""
    bold = {"size": 14, "weight": "bold"}
    if handles:
        columns = min(len(handles), legend_columns(h.get_label() for h in handles))
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


def legend_columns(labels: Iterable[object]) -> int:
    """As many columns as fit the figure's width at about 13 characters an inch."""
    widest = max(len(str(label)) for label in labels) + 7
    return max(1, int(WIDTH * 11 / widest))
