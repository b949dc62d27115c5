"""What figures show of streams that are told to forget: which experience, from when, until when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import accuracies, config, ordered, write_cell

from clframe.report import figures, pens, plots
from clframe.report.captions import VIEW_TITLES, note_of
from clframe.report.groups import Naming
from clframe.report.load import load_cell
from clframe.report.scene import Scene, build_scene, stages
from clframe.report.strokes import axis_names
from clframe.report.style import looks
from clframe.report.tables import warnings_of
from clframe.report.values import cell_values

LENGTH = 6  # updates at each position


def scene(folder: Path, order: str) -> Scene:
    """The scene of two strategies that met `order`, such as "L0 L1 U0"."""
    stream = ordered(order)
    asked: list[dict[str, Any]] = [
        {"learn": e["origin"]}
        if e["kind"] == "learn"
        else {"forget": {"tasks": e["touches"]} if e["forgets"] else {"classes": e["classes"]}}
        for e in stream
    ]
    cells, lengths = [], [LENGTH] * len(stream)
    for strategy in ("replay", "derpp"):
        table = accuracies(strategy, lengths, np.random.default_rng(0))
        cfg = config(strategy, "split_digits", 0, requests=asked)
        cells.append(load_cell(write_cell(folder, cfg, table, lengths, stream=stream)))
    groups = Naming.of(cells).groups(cells)
    made = build_scene(groups, cell_values(groups)[0], looks(groups))
    assert made is not None
    return made


def still(made: Scene, view: str) -> list[str]:
    """The titles of the visible panels of a still figure, in order."""
    figure, _ = getattr(plots, view)(made)
    return [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]


def interactive(made: Scene, view: str, columns: int) -> list[str]:
    """The titles of an interactive figure's panels, each read off its own panel."""
    figure = getattr(figures, view)(made)
    bold = [a for a in figure.layout.annotations if a.text.startswith("<b>")]
    titles = {a.xref.removesuffix(" domain"): a.text[3:-4] for a in bold}
    assert len(titles) == len(bold), "one title a panel"
    panels = [(1 + i // columns, 1 + i % columns) for i in range(len(bold))]
    return [titles[axis_names(figure, at)[0]] for at in panels]


@pytest.mark.parametrize(
    ("order", "titles"),
    [
        ("L0 L1 U0", ["U0: experience 0"]),
        (
            "L0 L1 L2 U0,2 L3 U1",
            ["U0,2: experience 0", "U0,2: experience 2", "U1: experience 1"],
        ),
        ("L3 L1 U3 L0", ["U3: experience 3"]),
        ("L0 L1 U0 L0 U0", ["U0: experience 0", "U0: experience 0"]),
    ],
)
def test_each_panel_says_which_experience_it_shows(
    tmp_path: Path, order: str, titles: list[str]
) -> None:
    made = scene(tmp_path, order)
    assert still(made, "relapses") == titles
    assert interactive(made, "relapses", min(len(titles), 3)) == titles


def test_a_panel_names_what_is_learned_and_forgotten_in_its_window(tmp_path: Path) -> None:
    made = scene(tmp_path, "L0 L1 U0 L2 L0 U1 L3")
    shown = [[s.name for s in stages(made, (z.first, z.last))] for z in made.relapses]
    assert shown == [["L1", "U0", "L2"], ["L0", "U1", "L3"]]
    still, _ = plots.relapses(made)
    named = [{text.get_text(): text.get_position()[0] for text in ax.texts} for ax in still.axes]
    figure = figures.relapses(made)
    notes = [a for a in figure.layout.annotations if not a.text.startswith("<b>")]
    axes = [axis_names(figure, (1, column))[0] for column in (1, 2)]
    assert [{a.text: a.x for a in notes if a.xref == x} for x in axes] == named
    assert list(named[1]) == ["L0", "U1", "L3"]


def test_the_matrix_calls_everything_as_the_other_figures_do(tmp_path: Path) -> None:
    made = scene(tmp_path, "L2 L1 U2 L0 L2")
    after, on = ["L2", "L1", "U2", "L0", "L2"], ["2", "1", "0", "2"]
    ax, *_ = plots.matrices(made)[0].axes
    assert [text.get_text() for text in ax.get_yticklabels()] == after
    assert [text.get_text() for text in ax.get_xticklabels()] == on
    figure = figures.matrices(made)
    assert list(figure.layout.yaxis.ticktext) == after and list(figure.layout.xaxis.ticktext) == on
    assert figure.data[0].hovertext[2][0] == "after U2, on 2"


def test_all_views_come_in_one_order_in_both_forms(tmp_path: Path) -> None:
    assert list(plots.DRAW) == list(figures.DRAW) == list(VIEW_TITLES)
    made = scene(tmp_path / "a", "L0 L1 U0")
    assert made.views == list(VIEW_TITLES)
    assert [p.stem for p in plots.save_all(made, tmp_path, "x")] == [f"x-{v}" for v in made.views]
    assert scene(tmp_path / "b", "L0 L1 u0").views == [v for v in VIEW_TITLES if v != "relapse"]


@pytest.mark.parametrize(
    ("count", "columns", "empty"), [(1, 1, 0), (4, 3, 2), (5, 5, 0), (7, 2, 1)]
)
def test_places_without_a_panel_stay_empty(count: int, columns: int, empty: int) -> None:
    figure, axes = pens.panels(count, columns, panel_height=2.0)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert shown == axes and len(axes) == count
    assert len(figure.axes) - len(shown) == empty


def test_a_panel_ends_where_its_experience_is_learned_again(tmp_path: Path) -> None:
    made = scene(tmp_path, "L0 L1 U0 L2 L0 U0 L3")
    begin, whole = made.axis.edges[:-1], made.axis.edges[-1]
    first, again = made.relapses
    assert (first.at, first.last) == (begin[2], begin[4])
    assert (again.at, again.last) == (begin[5], whole)
    for panel in made.relapses:
        assert set(panel.curves) == {"replay", "derpp"}
        assert all(c.steps.max() == panel.last for c in panel.curves.values())
        assert all(panel.first <= c.steps.min() <= panel.at for c in panel.curves.values())
    assert "learned again" in note_of("relapse", made)
    assert "learned again" not in note_of("overlay", made)


def test_what_is_learned_again_alone_is_another_experience(tmp_path: Path) -> None:
    made = scene(tmp_path, "L0 L1 U0,1 L0 L2")
    ends = {panel.title: panel.last for panel in made.relapses}
    begin, whole = made.axis.edges[:-1], made.axis.edges[-1]
    assert ends == {"U0,1: experience 0": begin[3], "U0,1: experience 1": whole}


def test_panels_that_all_reach_the_end_need_no_note(tmp_path: Path) -> None:
    assert "learned again" not in note_of("relapse", scene(tmp_path, "L0 L1 U0 L2"))


def test_a_request_for_single_classes_is_called_after_where_they_were(tmp_path: Path) -> None:
    made = scene(tmp_path, "L0 L1 u0 L2 u0,1")
    assert [s.name for s in stages(made, made.span)] == ["L0", "L1", "U0 part", "L2", "U0,1 part"]
    assert not made.relapses and "forgotten (U, red)" in note_of("overlay", made)


def test_switches_and_experiences_have_their_name_of_the_scenario(tmp_path: Path) -> None:
    made = scene(tmp_path, "L2 L1 U2 L0")
    titles = [
        "Experience 2",
        "Mean of all experiences before the current one",
        *(f"Switch to {name}: mean of all before" for name in ("L1", "U2", "L0")),
    ]
    assert still(made, "overlay") == titles
    shown = [a.text for a in figures.overlay(made).layout.annotations]
    assert [text[3:-4] for text in shown if text.startswith("<b>")] == titles


def test_runs_of_an_earlier_version_are_measured_as_those_of_this_one(tmp_path: Path) -> None:
    """Their metrics.json counts what a request did as part of learning what came before it."""
    scene(tmp_path, "L0 L1 U0 L2")
    folders = sorted(p.parent for p in tmp_path.glob("**/metrics.json"))

    def values() -> dict[str, Any]:
        cells = [load_cell(folder) for folder in folders]
        return cell_values(Naming.of(cells).groups(cells))[0]

    before = values()
    for path in (folder / "metrics.json" for folder in folders):
        old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("stages", "kept")}
        path.write_text(json.dumps(old | {"min_acc_final": 0.0, "gap": None}))
    after = values()
    shown = ("min_acc", "depth", "acc", "forg", "wc_acc")
    for cell, found in before.items():
        assert found["depth"] is not None
        assert {k: after[cell][k] for k in shown} == {k: found[k] for k in shown}


@pytest.mark.parametrize(("order", "told"), [("L0 L1 u0 L2", True), ("L0 L1 U0 L2", False)])
def test_a_part_that_is_forgotten_is_warned_of(tmp_path: Path, order: str, told: bool) -> None:
    scene(tmp_path, order)
    cells = [load_cell(p.parent) for p in tmp_path.glob("**/metrics.json")]
    assert any("took a part of an experience" in w for w in warnings_of(cells)) == told
