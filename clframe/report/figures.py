"""The interactive figures: the same views as the still ones, to zoom into and read off."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import plotly.graph_objects as go

from clframe.report.captions import BAR_TITLES
from clframe.report.curves import bins_for
from clframe.report.scene import Heat, Scene, bar_range, overlay_bins, panel_bins, zoom_columns
from clframe.report.strokes import (
    at_place,
    axis_names,
    draw_bar,
    draw_bounds,
    draw_line,
    finish,
    grid,
    mark_switches,
    vertical,
)
from clframe.report.style import INK, LOST, Look, sequence


def experiences(scene: Scene) -> go.Figure:
    """A panel per method, a line per experience; the legend hides an experience everywhere."""
    columns = 1 if len(scene.methods) <= 3 else 2
    rows = -(-len(scene.methods) // columns)
    titles = _colored(scene, scene.methods)
    figure = grid(rows, columns, titles, shared_xaxes="all", shared_yaxes="all")
    known = sorted({i for curves in scene.experiences.values() for i in curves})
    colors = dict(zip(known, sequence(len(known)), strict=True))
    bins, legend = panel_bins(scene), set[int]()
    for place, method in enumerate(scene.methods):
        at = at_place(place, columns)
        for i, curve in scene.experiences[method].items():
            look = Look(colors[i], "solid", "o")
            draw_line(figure, at, curve, bins, scene.name(i), look, show=i not in legend)
            legend.add(i)
    places = [at_place(p, columns) for p in range(len(scene.methods))]
    mark_switches(figure, dict.fromkeys(places, scene.span), scene)
    figure.update_xaxes(title_text="iteration [updates]", row=rows, showticklabels=True)
    figure.update_xaxes(range=scene.span, showgrid=False)
    figure.update_yaxes(title_text="accuracy [%]", col=1)
    figure.update_yaxes(range=[-2, 104])
    return finish(figure, rows)


def overlay(scene: Scene) -> go.Figure:
    """All methods on experience 0 and on what came before, then a close-up of every switch."""
    zooms, columns = len(scene.zooms), zoom_columns(len(scene.zooms))
    rows = 2 + -(-zooms // columns)
    wide = [{"colspan": columns}, *[None] * (columns - 1)]
    titles = [*scene.wide_titles, *(zoom.title for zoom in scene.zooms)]
    specs = [wide, wide, *[[{}] * columns for _ in range(rows - 2)]]
    figure = grid(rows, columns, [(title, INK) for title in titles], specs=specs)
    bins = overlay_bins(scene)
    for method, look in ((m, scene.looks[m]) for m in scene.methods):
        draw_line(figure, (1, 1), scene.first[method], bins, method, look, show=True)
        for curve in scene.previous[method]:
            draw_line(figure, (2, 1), curve, bins, method, look, show=False)
    for row in (1, 2):
        draw_bounds(figure, row, scene)
        figure.update_xaxes(title_text="iteration [updates]", range=scene.span, row=row, col=1)
        figure.update_yaxes(title_text="accuracy [%]", range=[-2, 104], row=row, col=1)
    mark_switches(figure, dict.fromkeys([(1, 1), (2, 1)], scene.span), scene)
    marks = list(figure.layout.shapes)
    for place, zoom in enumerate(scene.zooms):
        at = at_place(place, columns, above=2)
        for method, curve in zoom.curves.items():
            draw_line(figure, at, curve, bins, method, scene.looks[method], show=False)
        marks.append(vertical(*axis_names(figure, at), zoom.at, INK))
        figure.update_xaxes(range=[zoom.first, zoom.last], row=at[0], col=at[1])
        figure.update_yaxes(range=[-2, 104], row=at[0], col=at[1])
    figure.update_xaxes(title_text="iteration [updates]", row=rows)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title_text="accuracy [%]", col=1)
    figure.update_layout(shapes=marks)
    return finish(figure, rows)


def relapses(scene: Scene) -> go.Figure:
    """A panel per forgotten experience: all methods from just before its request to the end."""
    columns = min(len(scene.relapses), 3)
    rows = -(-len(scene.relapses) // columns)
    titles = [(zoom.title, LOST) for zoom in scene.relapses]
    figure = grid(rows, columns, titles, shared_yaxes="all")
    bins, legend = bins_for(len(scene.relapses) * len(scene.methods)), set[str]()
    windows = {}
    for place, zoom in enumerate(scene.relapses):
        at = at_place(place, columns)
        for method, curve in zoom.curves.items():
            look = scene.looks[method]
            draw_line(figure, at, curve, bins, method, look, show=method not in legend)
            legend.add(method)
        windows[at] = zoom.first, zoom.last
        figure.update_xaxes(range=windows[at], row=at[0], col=at[1])
    mark_switches(figure, windows, scene)
    figure.update_xaxes(title_text="iteration [updates]", row=rows)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title_text="accuracy [%]", col=1)
    figure.update_yaxes(range=[-2, 104])
    return finish(figure, rows)


def matrices(scene: Scene) -> go.Figure:
    """R of every method: accuracy after learning the row's experience, on the column's."""
    size = max(h.table.shape[0] for h in scene.heats.values())
    columns = min(len(scene.heats), 4 if size <= 6 else 3 if size <= 10 else 2)
    rows = -(-len(scene.heats) // columns)
    panel = max(260, min(470, 32 * size + 70))
    figure = grid(rows, columns, _colored(scene, scene.heats), panel=panel)
    for place, heat in enumerate(scene.heats.values()):
        (row, column), (after, on) = at_place(place, columns), scene.ticks(heat)
        figure.add_heatmap(
            z=heat.table * 100,
            hovertext=[[f"after {k}, on {i}" for i in on] for k in after],
            text=_numbers(heat),
            texttemplate="%{text}",
            textfont={"size": 12 if size <= 6 else 10 if size <= 10 else 8},
            coloraxis="coloraxis",
            hovertemplate="%{hovertext}: %{z:.2f} %<extra></extra>",
            row=row,
            col=column,
        )
        figure.update_xaxes(tickvals=[*range(len(on))], ticktext=on, row=row, col=column)
        figure.update_yaxes(tickvals=[*range(len(after))], ticktext=after, row=row, col=column)
    figure.update_xaxes(title_text="tested on experience", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_yaxes(title_text="after experience", col=1)
    bar = {
        "title": {"text": "accuracy [%]"},
        "thickness": 14,
        "len": min(1.0, 320 / (panel * rows)),
    }
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": 100, "colorbar": bar}
    )
    return finish(figure, rows, panel=panel, legend=False)


def gap_bars(scene: Scene) -> go.Figure:
    """How deep each method falls and whether it comes back: mean, interval, seeds."""
    columns = len(scene.bars)
    panel = 90 + 36 * len(scene.methods)
    titles = [(BAR_TITLES[column.key], INK) for column, _ in scene.bars]
    figure = grid(1, columns, titles, panel=panel, shared_yaxes=True, horizontal=0.025)
    for place, (column, bars) in enumerate(scene.bars, start=1):
        for bar in bars:
            draw_bar(figure, place, bar, scene.looks[bar.method])
        figure.update_xaxes(
            title_text=f"[{column.unit}]", range=bar_range(column, bars), row=1, col=place
        )
    order = list(reversed(scene.methods))
    figure.update_yaxes(categoryorder="array", categoryarray=order, showgrid=False)
    figure.update_layout(barmode="overlay", bargap=0.35)
    return finish(figure, 1, panel=panel, legend=False)


DRAW: dict[str, Callable[[Scene], go.Figure]] = {
    "experiences": experiences,
    "overlay": overlay,
    "matrix": matrices,
    "gap": gap_bars,
    "relapse": relapses,
}


def _colored(scene: Scene, methods: Iterable[str]) -> list[tuple[str, str]]:
    """Titles of panels that show one method each, in its colour."""
    return [(method, scene.looks[method].color) for method in methods]


def _numbers(heat: Heat) -> list[list[str]]:
    """What is printed in the squares: the experience just learned in bold."""
    return [
        [
            "" if np.isnan(value) else f"<b>{value:.0f}</b>" if k == i else f"{value:.0f}"
            for i, value in zip(heat.columns, row, strict=True)
        ]
        for k, row in zip(heat.rows, (heat.table * 100).tolist(), strict=True)
    ]
