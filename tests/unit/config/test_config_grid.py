"""Grid files: the product, what is left out and added, changes on the command line, mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clframe.config.grid import GridSpec, load_grid
from clframe.config.identity import run_id
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError

GRID = """
name: gap
axes:
  strategy: [plain, memory, outer+memory]
  scenario: [toy, toy_ten]
  seed: [0, 1]
base:
  epochs: 2
  optim: {lr: 0.1}
options:
  memory: {capacity: 100}
"""


def grid(project: Path, text: str, *words: str) -> GridSpec:
    path = project / "grid.yaml"
    path.write_text(text)
    return load_grid(path, words)


def names(cells: list[RunConfig]) -> list[tuple[str, str, int]]:
    return [(c.strategy, c.scenario, c.seed) for c in cells]


def error_of(project: Path, text: str, *words: str) -> str:
    with pytest.raises(ClframeError) as error:
        grid(project, text, *words).cells()
    return str(error.value)


def test_the_product_in_the_order_written(project: Path) -> None:
    cells = grid(project, GRID).cells()
    assert len(cells) == 12
    assert names(cells)[:5] == [
        ("plain", "toy", 0),
        ("plain", "toy", 1),
        ("plain", "toy_ten", 0),
        ("plain", "toy_ten", 1),
        ("memory", "toy", 0),
    ]
    assert all(c.epochs == 2 and c.optim.lr == 0.1 and c.track.experiment == "mine" for c in cells)


def test_options_reach_only_those_who_take_them(project: Path) -> None:
    cells = grid(project, GRID).cells()
    assert [c.options for c in cells[::4]] == [
        {},
        {"memory": {"capacity": 100}},
        {"memory": {"capacity": 100}},
    ]
    plain = run_id(cells[0])
    assert run_id(grid(project, GRID, "options.memory.capacity=7").cells()[0]) == plain


def test_any_key_is_an_axis_and_a_scalar_is_a_list_of_one(project: Path) -> None:
    text = """
axes:
  strategy: memory
  scenario: toy
  batch_size: [16, 64]
  optim.lr: [0.1, 0.2]
  net: [{name: mlp}, {name: cnn, args: {width: 4}}]
  options.memory.capacity: [1, 2]
"""
    spec = grid(project, text)
    cells = spec.cells()
    assert spec.name == "grid" and len(cells) == 16
    assert cells[-1].net.args == {"width": 4} and cells[-1].options["memory"]["capacity"] == 2
    assert (cells[-1].batch_size, cells[-1].optim.lr) == (64, 0.2)


def test_exclude_and_include(project: Path) -> None:
    more = """
exclude:
  - {strategy: plain, seed: 1}
  - {optim: {lr: 0.1}, scenario: toy_ten}
include:
  - {strategy: plain, scenario: toy, seed: 7, optim.lr: 0.5}
  - {strategy: memory, scenario: toy, options: {memory: {share: 0.9}}}
"""
    cells = grid(project, GRID + more).cells()
    assert names(cells) == [
        ("plain", "toy", 0),
        ("memory", "toy", 0),
        ("memory", "toy", 1),
        ("outer+memory", "toy", 0),
        ("outer+memory", "toy", 1),
        ("plain", "toy", 7),
        ("memory", "toy", 0),
    ]
    assert cells[5].optim.lr == 0.5
    assert cells[6].options == {"memory": {"capacity": 100, "share": 0.9}}


def test_the_command_line_replaces_axes_and_changes_the_base(project: Path) -> None:
    spec = grid(project, GRID, "seed=[5,6,7]", "strategy=plain", "scenario=[toy]", "name=other")
    assert spec.name == "other" and names(spec.cells()) == [("plain", "toy", s) for s in (5, 6, 7)]
    cells = grid(project, GRID, "epochs=9", "optim.lr=1.5", "options.memory.share=0").cells()
    assert {(c.epochs, c.optim.lr) for c in cells} == {(9, 1.5)}
    assert cells[-1].options == {"memory": {"capacity": 100, "share": 0}}
    axis = GRID.replace("seed: [0, 1]", "seed: [0, 1]\n  batch_size: [1, 2]")
    assert {c.batch_size for c in grid(project, axis, "batch_size=8").cells()} == {8}


def test_a_narrowed_grid_may_have_options_left_over(project: Path) -> None:
    spec = grid(project, GRID, "strategy=plain")
    assert len(spec.cells()) == 4
    assert len(grid(project, spec.to_yaml()).cells()) == 4
    said = error_of(project, GRID.replace("  memory: {", "  memry: {"), "strategy=plain")
    assert "options.memry" in said


def test_interpolation_is_per_cell(project: Path) -> None:
    text = GRID.replace("capacity: 100", "capacity: '${seed}'")
    assert [c.options["memory"]["capacity"] for c in grid(project, text).cells()[4:6]] == [0, 1]


def test_duplicates_collapse_with_a_notice(project: Path) -> None:
    spec = grid(project, GRID.replace("seed: [0, 1]", "seed: [0, 0]"))
    assert len(spec.cells()) == 6 and len(spec.notices) == 6
    assert "repeats an earlier cell" in spec.notices[0]
    spec = grid(project, GRID + "  # no numbers change with these\n", "devices=1")
    assert len(spec.cells()) == 12 and not spec.notices


def test_an_exclude_that_matches_nothing_is_noted(project: Path) -> None:
    spec = grid(project, GRID + "exclude: [{strategy: plane}]\n")
    assert len(spec.cells()) == 12
    assert spec.notices == ['exclude {"strategy": "plane"} matches no cell']


def test_the_resolved_grid_is_the_same_grid(project: Path) -> None:
    more = "exclude: [{seed: 1, strategy: plain}]\n"
    more += "include: [{strategy: plain, scenario: toy, seed: 9}]\n"
    spec = grid(project, GRID + more, "optim.momentum=0.5", "options.memory.share=0.2")
    again = grid(project, spec.to_yaml())
    assert list(map(run_id, again.cells())) == list(map(run_id, spec.cells()))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs: 2", "epochs: x", './grid.yaml: base.epochs = "x": expected a whole number'),
        ("lr: 0.1", "lrr: 0.1", "base.optim.lrr = 0.1: unknown key. Did you mean 'optim.lr'?"),
        ("seed: [0, 1]", "seed: [0, x]", './grid.yaml: axes.seed = "x": expected a whole number'),
        ("seed: [0, 1]", "sede: [0, 1]", "axes.sede = [0, 1]: unknown key. Did you mean 'seed'?"),
        ("seed: [0, 1]", "seed: []", "axes.seed = []: expected at least one value"),
        ("plain, memory", "plian, memory", "no strategy named 'plian'. Did you mean 'plain'?"),
        (
            "[toy, toy_ten]",
            "[toy, tow_ten]",
            "no scenario named 'tow_ten'. Did you mean 'toy_ten'?",
        ),
        ("capacity: 100", "capacty: 1", "./grid.yaml: options.memory.capacty = 1: memory takes no"),
        ("  memory: {", "  memry: {", 'options.memry = {"capacity": 100}: no cell uses a plug-in'),
        ("base:", "bass:", "bass = {"),
        ("name: gap", "epochs: 3\nname: gap", "epochs = 3: it belongs under base: or axes:"),
        ("name: gap", "name: a/b", 'name = "a/b": expected a folder\'s name'),
        ("name: gap", "name: solo", "this name is taken"),
        ("name: gap", "name: 3", "name = 3: expected a folder's name"),
        ("base:\n", "exclude: {seed: 1}\nbase:\n", 'exclude = {"seed": 1}: expected a list'),
        ("base:\n", "include: [3]\nbase:\n", "include[0] = 3: expected a mapping"),
        ("base:\n", "exclude: [{sede: 1}]\nbase:\n", "exclude[0].sede = 1: unknown key. Did you"),
        ("base:\n", "include: [{seed: 1}]\nbase:\n", "strategy: missing"),
        (
            "base:\n",
            "include: [{strategy: plain, scenario: toy, seed: [1]}]\nbase:\n",
            "include[0].seed",
        ),
        ("name: gap\naxes:", "name: gap\naxes: 3\nx:", "axes = 3: expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(
    project: Path, old: str, new: str, expected: str
) -> None:
    assert old in GRID
    assert expected in error_of(project, GRID.replace(old, new))


def test_one_mistake_of_many_cells_is_told_once(project: Path) -> None:
    said = error_of(project, GRID.replace("epochs: 2", "epochs: x"))
    assert said.count("epochs") == 1


def test_several_mistakes_are_told_together(project: Path) -> None:
    text = GRID.replace("epochs: 2", "epochs: x").replace("plain", "plian")
    said = error_of(project, text, "batch_size=-1")
    assert said.startswith("3 problems")
    assert "command line: batch_size = -1" in said


def test_nothing_left_is_an_error(project: Path) -> None:
    assert "no cells are left" in error_of(project, GRID + "exclude: [{epochs: 2}]\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "./grid.yaml: the file is empty"),
        ("# only words\n", "./grid.yaml: the file is empty"),
        ("---\n", "./grid.yaml: the file is empty"),
        ("- a\n- b\n", "expected keys and values"),
        ("hello\n", "expected keys and values"),
        ("a: [1\nb: 2\n", "./grid.yaml, line 2: "),
        ("a: 1\n\tb: 2\n", "./grid.yaml, line 2: "),
        ("name: a\nname: b\n", "./grid.yaml, line 2: found duplicate key name"),
        ("base:\n  epochs: 1\n  epochs: 2\n", "line 3: found duplicate key epochs"),
        ("1: 2\nname: x\n", "1 = 2: a key must be text"),
    ],
)
def test_files_that_are_no_grids(project: Path, text: str, expected: str) -> None:
    assert expected in error_of(project, text)


def test_a_missing_file_names_the_nearest(project: Path) -> None:
    grid(project, GRID)
    with pytest.raises(
        ClframeError, match=r"gird\.yaml: no such file\. Did you mean '.*grid\.yaml'"
    ):
        load_grid(project / "gird.yaml")
    with pytest.raises(ClframeError, match=r"Files there: grid\.yaml"):
        load_grid(project / "something_else.yaml")
    with pytest.raises(ClframeError, match="is a folder"):
        load_grid(project / "conf")


def test_many_cells_are_checked_quickly_and_without_torch(project: Path) -> None:
    (project / "grid.yaml").write_text(GRID.replace("[0, 1]", "[0, 1, 2, 3]"))
    code = (
        "import sys, time\nfrom clframe.config.grid import load_grid\n"
        "def once():\n"
        "    t = time.process_time()\n"
        "    assert len(load_grid('grid.yaml').cells()) == 24\n"
        "    return time.process_time() - t\n"
        "print(min(once() for _ in range(3)))\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5


def test_shipped_grids_and_presets_are_sound() -> None:
    conf = Path(__file__).parents[3] / "conf"
    sizes = {p.stem: len(load_grid(p).cells()) for p in sorted((conf / "grid").glob("*.yaml"))}
    assert sizes["quickstart"] == 24 and sizes["baselines"] == 54
