"""The strokes of the interactive figures: panels, lines with bands, bars, switches, layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from clframe.report.curves import Curve
from clframe.report.scene import Bar, Scene, Stage, stages
from clframe.report.style import FAINT, GREY, GRID, INK, LOST, Look, rgba

FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
HOVER = "%{y:.1f} % after %{x:.0f} updates"
PANEL, GAP, HEAD, FOOT = 250, 88, 90, 60  # pixels


def at_place(place: int, columns: int, above: int = 0) -> tuple[int, int]:
    """Row and column, from 1, of the panel at `place`."""
    return above + place // columns + 1, place % columns + 1


def grid(
    rows: int,
    columns: int,
    titles: Sequence[tuple[str, str]],
    *,
    panel: int = PANEL,
    horizontal: float = 0.05,
    **options: object,
) -> go.Figure:
    """Empty panels; `titles`, each with its colour, go to them in turn, at their upper left."""
    total = rows * panel + (rows - 1) * GAP
    figure = make_subplots(
        rows=rows,
        cols=columns,
        vertical_spacing=GAP / total if rows > 1 else 0,
        horizontal_spacing=horizontal if columns > 1 else 0,
        **options,
    )
    places = [(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]
    panels = [at for at in places if figure.get_subplot(*at) is not None]
    notes = []
    for at, (title, color) in zip(panels, titles, strict=False):
        x, y = axis_names(figure, at)
        where = {"x": 0, "y": 1, "xref": f"{x} domain", "yref": f"{y} domain", "yshift": 15}
        font = {"size": 14, "color": color}
        anchor = {"xanchor": "left", "yanchor": "bottom", "showarrow": False}
        notes.append({"text": f"<b>{title}</b>", "font": font} | where | anchor)
    for at in panels[len(titles) :]:
        figure.update_xaxes(visible=False, row=at[0], col=at[1])
        figure.update_yaxes(visible=False, row=at[0], col=at[1])
    figure.update_layout(annotations=notes)
    return figure


def draw_line(
    figure: go.Figure,
    at: tuple[int, int],
    curve: Curve,
    bins: int,
    name: str,
    look: Look,
    *,
    show: bool,
) -> None:
    """Mean over seeds, and the band from the lowest to the highest under it."""
    mean, low, high = curve.thinned(bins)
    place = {"row": at[0], "col": at[1], "legendgroup": name}
    if curve.seeds > 1:
        figure.add_scatter(
            x=_short(np.concatenate([high.steps, low.steps[::-1]])),
            y=_short(np.concatenate([high.values, low.values[::-1]]) * 100),
            fill="toself",
            fillcolor=rgba(look.color, 0.15),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            **place,
        )
    figure.add_scatter(
        x=_short(mean.steps),
        y=_short(mean.values * 100),
        mode="lines",
        line={"color": look.color, "width": 1.6, "dash": look.dash},
        name=name,
        showlegend=show,
        hovertemplate=f"{name}: {HOVER}<extra></extra>",
        **place,
    )


def draw_bounds(figure: go.Figure, row: int, scene: Scene) -> None:
    for method, bound in scene.bounds.items():
        look = scene.looks[method]
        x, y = (bound.steps, bound.first) if row == 1 else (bound.previous_steps, bound.previous)
        figure.add_scatter(
            x=x,
            y=np.array(y) * 100,
            mode="lines+markers",
            line={"color": look.color, "width": 1.2, "dash": look.dash},
            cliponaxis=False,
            marker={"symbol": "star" if look.marker == "*" else "cross", "size": 8},
            name=f"{method} (bound)",
            legendgroup=method,
            showlegend=row == 1,
            hovertemplate=f"{method}: {HOVER}<extra></extra>",
            row=row,
            col=1,
        )


def draw_bar(figure: go.Figure, place: int, bar: Bar, look: Look) -> None:
    at = {"row": 1, "col": place, "showlegend": False}
    if bar.mean is None:
        style = {"text": ["<i>none</i>"], "mode": "text", "textposition": "middle right"}
        figure.add_scatter(y=[bar.method], x=[0], hoverinfo="skip", **style, **at)
        return
    error = {"type": "data", "array": [bar.half or 0], "color": INK, "thickness": 1.3, "width": 4}
    figure.add_bar(
        y=[bar.method],
        x=[bar.mean],
        orientation="h",
        marker={"color": rgba(look.color, 0.5)},
        error_x=error if bar.half is not None else None,
        hovertemplate=_bar_hover(bar),
        **at,
    )
    figure.add_scatter(
        y=[bar.method] * len(bar.points),
        x=bar.points,
        mode="markers",
        marker={"color": look.color, "size": 6, "line": {"color": "white", "width": 0.7}},
        hovertemplate="one seed: %{x:.2f}<extra></extra>",
        **at,
    )


def _bar_hover(bar: Bar) -> str:
    half = "" if bar.half is None else f" ± {bar.half:.2f}"
    return f"{bar.method}: %{{x:.2f}}{half}, n = {len(bar.points)}<extra></extra>"


def mark_switches(
    figure: go.Figure, places: Mapping[tuple[int, int], tuple[float, float]], scene: Scene
) -> None:
    """A dashed vertical at every switch, and above it what is learned or forgotten then.

    `places` are panels, each with where it begins and ends.
    """
    shapes, notes = list(figure.layout.shapes), list(figure.layout.annotations)
    for at, window in places.items():
        x, y = axis_names(figure, at)
        shapes += [vertical(x, y, where, FAINT) for _, where in scene.axis.switches]
        for stage in stages(scene, window):
            color = LOST if stage.forgets else GREY
            if stage.forgets:
                shapes += [vertical(x, y, stage.begin, LOST), _span(x, y, stage)]
            notes.append(
                {"x": stage.middle, "y": 1, "xref": x, "yref": f"{y} domain", "text": stage.name}
                | {"showarrow": False, "yanchor": "bottom", "font": {"size": 10, "color": color}}
            )
    figure.update_layout(shapes=shapes, annotations=notes)


def vertical(x: str, y: str, where: float, color: str) -> dict[str, Any]:
    line = {"color": color, "width": 1, "dash": "dash"}
    ends = {"x0": where, "x1": where, "y0": 0, "y1": 1}
    return {"type": "line", "xref": x, "yref": f"{y} domain", "line": line, "layer": "below"} | ends


def _span(x: str, y: str, stage: Stage) -> dict[str, Any]:
    ends = {"x0": stage.begin, "x1": stage.end, "y0": 0, "y1": 1}
    look = {"fillcolor": rgba(LOST, 0.13), "line": {"width": 0}, "layer": "below"}
    return {"type": "rect", "xref": x, "yref": f"{y} domain"} | ends | look


def axis_names(figure: go.Figure, at: tuple[int, int]) -> tuple[str, str]:
    """The names of a panel's axes, as shapes and annotations refer to them."""
    panel = figure.get_subplot(*at)
    x, y = (str(a.plotly_name).replace("axis", "") for a in (panel.xaxis, panel.yaxis))
    return x, y


def _further_rows(figure: go.Figure) -> int:
    """How many rows beyond the first a legend takes on a page of usual width, about."""
    names = [t.name for t in figure.data if t.name and t.showlegend]
    return sum(7 * len(name) + 50 for name in names) // 1200


def _short(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Half the bytes; a float32 holds every count and every accuracy to 1e-5 of a point."""
    return values.astype(np.float32)


def finish(figure: go.Figure, rows: int, *, panel: int = PANEL, legend: bool = True) -> go.Figure:
    head = HEAD + 22 * _further_rows(figure) if legend else 72
    height = rows * panel + (rows - 1) * GAP + head + FOOT
    axis: Mapping[str, object] = {"gridcolor": GRID, "zeroline": False, "linecolor": FAINT}
    figure.update_xaxes(**axis, ticks="outside", tickcolor=FAINT, title_standoff=6)
    figure.update_yaxes(**axis, title_standoff=6)
    figure.update_layout(
        height=height,
        margin={"l": 70, "r": 50, "t": head, "b": FOOT},
        font={"family": FONT, "size": 12, "color": INK},
        plot_bgcolor="white",
        paper_bgcolor="white",
        showlegend=legend,
        legend={
            "orientation": "h",
            "y": 1 + 36 / (height - head - FOOT),
            "x": 0,
            "yanchor": "bottom",
        },
        hovermode="closest",
        modebar={"orientation": "v" if legend else "h"},  # never over legend or titles
    )
    return figure
