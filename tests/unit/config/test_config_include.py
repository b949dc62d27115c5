"""Entries of `include` with axes of their own, and what words of the command line leave of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clframe.config.identity import run_id
from tests.unit.config.test_config_grid import GRID, error_of, grid, names

INCLUDE = """
include:
  - axes: {strategy: [memory], scenario: [toy], seed: [7, 8], options.memory.capacity: [1, 2]}
    optim.lr: 0.05
  - {axes: {strategy: [plain, outer+memory], seed: 7}, scenario: toy_ten}
"""


def test_an_entry_with_axes_is_a_product(project: Path) -> None:
    spec = grid(project, "options: {memory: {share: 0.9}}" + INCLUDE)
    cells = spec.cells()
    ten = [(s, "toy_ten", 7) for s in ("plain", "outer+memory")]
    assert names(cells) == [("memory", "toy", s) for s in (7, 7, 8, 8)] + ten
    assert [c.options["memory"]["capacity"] for c in cells[:4]] == [1, 2, 1, 2]
    assert {c.options["memory"]["share"] for c in cells[:4]} == {0.9}
    again = grid(project, spec.to_yaml())
    assert list(map(run_id, again.cells())) == list(map(run_id, cells))
    assert names(grid(project, GRID + INCLUDE).cells())[12:] == names(cells)


def test_words_replace_its_axes(project: Path) -> None:
    cells = grid(project, INCLUDE, "seed=3", "options.memory.capacity=[4]").cells()
    assert names(cells) == [
        ("memory", "toy", 3),
        ("plain", "toy_ten", 3),
        ("outer+memory", "toy_ten", 3),
    ]
    assert cells[0].options == {"memory": {"capacity": 4}}
    both = grid(project, GRID + INCLUDE, "seed=[3]").cells()
    assert {c.seed for c in both} == {3}


@pytest.mark.parametrize("words", [("optim.lr=0.7",), ("options.memory.share=0.3",)])
def test_words_go_before_what_an_entry_sets(project: Path, words: tuple[str, ...]) -> None:
    more = "  - {strategy: memory, scenario: toy, seed: 1, options: {memory: {share: 0.8}}}\n"
    cells = grid(project, INCLUDE + more, *words).cells()
    if words[0].startswith("optim"):
        assert {c.optim.lr for c in cells} == {0.7}
    else:
        assert {c.options["memory"]["share"] for c in cells if c.options} == {0.3}
    assert len(cells) == 7


def test_seeds_reach_entries_that_name_none(project: Path) -> None:
    text = "include: [{axes: {strategy: [plain, memory]}, scenario: toy}]\n"
    assert names(grid(project, text, "seed=[4, 5]").cells()) == [
        (s, "toy", k) for s in ("plain", "memory") for k in (4, 5)
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("strategy=memory", [("memory", "toy")]),
        ("strategy=[plain]", [("plain", "toy_ten")]),
        ("scenario=toy_ten", [("plain", "toy_ten"), ("outer+memory", "toy_ten")]),
    ],
)
def test_names_choose_among_the_entries(
    project: Path, word: str, expected: list[tuple[str, str]]
) -> None:
    """With the settings of each: nothing is laid on a cell that was not written for it."""
    found = grid(project, INCLUDE, word).cells()
    assert list(dict.fromkeys((c.strategy, c.scenario) for c in found)) == expected


def test_names_choose_among_product_and_entries(project: Path) -> None:
    product = GRID.replace("plain, memory, outer+memory", "plain, memory")
    found = {
        word: names(grid(project, product + INCLUDE, f"strategy={word}").cells())
        for word in ("plain", "outer+memory")
    }
    assert found["outer+memory"] == [("outer+memory", "toy_ten", 7)]
    in_product = [("plain", s, k) for s in ("toy", "toy_ten") for k in (0, 1)]
    assert found["plain"] == [*in_product, ("plain", "toy_ten", 7)]


def test_a_name_that_is_nowhere_is_refused(project: Path) -> None:
    said = error_of(project, INCLUDE, "strategy=plian")
    assert "strategy = \"plian\": no cell of this grid has it. Did you mean 'plain'?" in said
    assert "It has: memory, plain, outer+memory." in said


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{axes: {sede: [1]}}", "axes.sede = [1]: unknown key. Did you mean 'seed'?"),
        ("{axes: [1]}", "axes = [1]: expected a mapping"),
        ("{axes: {}}", "axes = {}: expected a mapping"),
        ("{axes: {seed: []}}", "axes.seed = []: expected at least one value"),
        ("{axes: {seed: [x]}, strategy: plain, scenario: toy}", 'axes.seed = "x": expected a who'),
        ("{axes: {seed: [1, 2]}, seed: 5}", "axes.seed = [1, 2]: also set beside axes"),
    ],
)
def test_a_mistake_is_named_with_its_place(project: Path, entry: str, expected: str) -> None:
    said = error_of(project, f"include: [{entry}]\n")
    assert f"./grid.yaml: include[0].{expected}" in said


def test_a_mistake_of_the_command_line_is_called_so(project: Path) -> None:
    assert 'command line: seed = "x": expected a whole' in error_of(project, INCLUDE, "seed=x")
    said = error_of(project, INCLUDE, "optim.lr=x")  # which an entry sets as well
    assert 'command line: optim.lr = "x"' in said and "include" not in said
