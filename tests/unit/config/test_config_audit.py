"""`audit` in a grid file: how it may be said, and which runs it adds to the grid's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from clframe.config.companions import Audit, retrained, unasked
from clframe.config.grid import GridSpec, load_grid
from clframe.config.identity import resolved, run_id
from clframe.config.load import load_run
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError

GRID = """
name: gone
axes:
  strategy: [memory, eraser+memory]
  scenario: [toy]
  seed: [0, 1, 2]
base:
  epochs: 2
  requests: L0 L1 U0 L2
options:
  memory: {capacity: 100}
  eraser: {steps: 7}
audit: true
"""
WITHOUT = "[{learn: 1, without: [{tasks: [0]}]}, {learn: 2}]"
ERASER = """
from typing import ClassVar
class Eraser(Wrapper):
    only_forgets: ClassVar[bool] = True
    def __init__(self, base, *, steps: int = 3): ...
"""


CODES = """
class Codes:
    forgets_by = ("noise", "rule")
    def __init__(self, *, size: int = 4, noise: int = 1, rule: str = "a"): ...
"""


@pytest.fixture
def folder(project: Path) -> Path:
    """The project with a wrapper that only forgets, and a preset of it."""
    (project / "strategies/eraser.py").write_text(ERASER)
    (project / "conf/strategy/hard_eraser.yaml").write_text("plugin: eraser\noptions: {steps: 9}\n")
    (project / "strategies/codes.py").write_text(CODES)
    preset = "plugin: codes\noptions: {size: 6, rule: b}\n"
    (project / "conf/strategy/codes_b.yaml").write_text(preset)
    return project


def grid(folder: Path, text: str = GRID, *words: str) -> GridSpec:
    path = folder / "grid.yaml"
    path.write_text(text)
    return load_grid(path, words)


def facts(cells: list[RunConfig]) -> list[tuple[str, int, str]]:
    """Strategy, seed and requests of each, in the short form where there is one."""
    found = []
    for cfg in cells:
        words = []
        for r in cfg.request_list() or []:
            gone = r.forget.values if r.forget else ()
            less = "-" if r.without else ""
            words.append(f"L{r.learn}{less}" if r.forget is None else f"U{gone}")
        found.append((cfg.strategy, cfg.seed, " ".join(words)))
    return found


def asked(value: str) -> str:
    return GRID.replace("audit: true", f"audit: {value}")


# -- how it may be said ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("true", Audit()),
        ("{}", Audit()),
        ("{samples: 5, recovery: [1, 2]}", Audit(samples=5, recovery=[1, 2])),
        ("{relearn_steps: 3, attack_samples: 4}", Audit(relearn_steps=3, attack_samples=4)),
        ("false", None),
        ("null", None),
    ],
)
def test_an_audit_is_asked_for(folder: Path, value: str, expected: Audit | None) -> None:
    spec = grid(folder, asked(value))
    assert spec.audit == expected
    assert bool(spec.companions()) == (expected is not None)
    assert {cfg.copies for cfg in spec.cells()} == {expected is not None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{sampels: 3}", "audit.sampels = 3: unknown key. Did you mean 'samples'?"),
        ("{samples: many}", 'audit.samples = "many": expected a whole number'),
        ("{samples: 0}", "audit.samples = 0: expected at least 1"),
        ("{recovery: 3}", "audit.recovery = 3: expected a list"),
        ("{recovery: [1, 0]}", "audit.recovery[1] = 0: expected at least 1"),
        ("3", "audit = 3: expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(folder: Path, value: str, expected: str) -> None:
    with pytest.raises(ClframeError) as error:
        grid(folder, asked(value))
    assert f"./grid.yaml: {expected}" in str(error.value)


def test_several_mistakes_are_told_together(folder: Path) -> None:
    with pytest.raises(ClframeError) as error:
        grid(folder, asked("{samples: x, relearn_steps: -1}"))
    assert str(error.value).startswith("2 problems")


def test_the_key_belongs_to_the_file_and_not_to_a_run(folder: Path) -> None:
    spec = grid(folder, asked("false").replace("base:", "base:\n  audit: true"))
    with pytest.raises(ClframeError, match=r"grid\.yaml: base\.audit = true: unknown key"):
        spec.cells()


# -- the runs beside -------------------------------------------------------------------------


def test_each_method_is_judged_by_its_base_retrained_and_unasked(folder: Path) -> None:
    spec = grid(folder)
    assert len(spec.cells()) == 6
    expected = [("memory", s, order) for s in range(3) for order in ("L1- L2", "L0 L1 L2")]
    assert facts(spec.companions()) == expected, "the same for both methods, and each once"
    assert not spec.notices


def test_the_command_line_changes_what_is_judged(folder: Path) -> None:
    path = folder / "grid.yaml"
    path.write_text(asked("{samples: 5, relearn_steps: 7}"))
    spec = load_grid(path, ["audit.samples=6", "audit.recovery=[2]"])
    assert spec.audit == Audit(samples=6, relearn_steps=7, recovery=[2])
    assert load_grid(path, ["audit=false"]).audit is None
    path.write_text(asked("false"))
    assert load_grid(path, ["audit=true"]).audit == Audit()
    assert load_grid(path, ["audit.samples=6"]).audit == Audit(samples=6)
    with pytest.raises(ClframeError, match=r"command line: audit.sampels = 3.*'samples'"):
        load_grid(path, ["audit.sampels=3"])


def test_cells_are_what_they_are_without_an_audit(folder: Path) -> None:
    plain = list(map(run_id, grid(folder, asked("false")).cells()))
    assert list(map(run_id, grid(folder).cells())) == plain


def test_a_run_by_hand_is_the_same_run(folder: Path) -> None:
    words = ("strategy=memory", "scenario=toy", "seed=1", "epochs=2", "options.memory.capacity=100")
    by_hand = [load_run([*words, f"requests={order}"]) for order in (WITHOUT, "L0 L1 L2")]
    ids = {run_id(cfg) for cfg in grid(folder).companions() if cfg.seed == 1}
    assert ids == set(map(run_id, by_hand))
    assert all("eraser" not in resolved(cfg).options for cfg in grid(folder).companions())


def test_a_cell_that_is_a_companion_runs_once(folder: Path) -> None:
    more = f"{{strategy: memory, scenario: toy, requests: {WITHOUT}, axes: {{seed: [0, 1]}}}}"
    spec = grid(folder, f"{GRID}include: [{more}]\n")
    assert len(spec.cells()) == 8
    rest = [("memory", 0, "L0 L1 L2"), ("memory", 1, "L0 L1 L2")]
    assert facts(spec.companions()) == [*rest, ("memory", 2, "L1- L2"), ("memory", 2, "L0 L1 L2")]


@pytest.mark.parametrize(
    ("chain", "left"),
    [
        ("outer+eraser+memory", "outer+memory"),
        ("eraser+outer+plain", "outer+plain"),
        ("hard_eraser+memory", "memory"),
        ("eraser+big_memory", "big_memory"),
        ("outer+memory", "outer+memory"),
    ],
)
def test_wrappers_that_only_forget_have_nothing_to_do_there(
    folder: Path, chain: str, left: str
) -> None:
    cfg = load_run([f"strategy={chain}", "scenario=toy", "requests=L0 L1 U0"])
    assert retrained(cfg).strategy == unasked(cfg).strategy == left
    assert facts([retrained(cfg), unasked(cfg)]) == [(left, 0, "L1-"), (left, 0, "L0 L1")]


def test_options_that_forgetting_alone_uses_make_no_other_companion(folder: Path) -> None:
    text = GRID.replace("[memory, eraser+memory]", "[codes, codes_b, eraser+codes]")
    text = text.replace("memory: {capacity: 100}", "codes: {size: 6, noise: 3}")
    beside = grid(folder, text).companions()
    assert {cfg.strategy for cfg in beside} == {"codes"} and len(beside) == 6
    assert {str(resolved(cfg).options["codes"]) for cfg in beside} == {"{'size': 6}"}
    words = ("strategy=codes", "scenario=toy", "epochs=2", "options.codes.size=6")
    by_hand = load_run([*words, "requests=L0 L1 L2"])
    assert run_id(by_hand) in set(map(run_id, beside))


def test_those_that_also_learn_are_judged_by_themselves(folder: Path) -> None:
    spec = grid(folder, GRID.replace("[memory, ", "[memory, outer+memory, "))
    assert {cfg.strategy for cfg in spec.companions()} == {"memory", "outer+memory"}
    assert len(spec.companions()) == 12


def test_classes_and_samples_are_left_out_of_what_is_learned(folder: Path) -> None:
    order = "[{learn: 0}, {forget: {classes: [1]}}, {learn: 1}, {forget: {uids: [7, 3]}}]"
    cfg = load_run(["strategy=plain", "scenario=toy", f"requests={order}"])
    first, second = retrained(cfg).request_list() or []
    assert [(f.names, list(f.values)) for f in first.without] == [
        ("classes", [1]),
        ("uids", [3, 7]),
    ]
    assert [(f.names, list(f.values)) for f in second.without] == [("uids", [3, 7])]
    assert facts([unasked(cfg)]) == [("plain", 0, "L0 L1")]


def test_what_was_learned_again_is_learned_once_by_who_was_never_asked(folder: Path) -> None:
    cfg = load_run(["strategy=plain", "scenario=toy", "requests=L0 L1 U0 L2 L0 U1"])
    assert facts([unasked(cfg)]) == [("plain", 0, "L0 L1 L2")]
    assert facts([retrained(cfg)]) == [("plain", 0, "L2- L0-")]


def test_whether_data_is_handed_over_makes_no_other_companion(folder: Path) -> None:
    include = "include: [{strategy: memory, scenario: toy, seed: 0, forget_data: true}]\n"
    spec = grid(folder, GRID + include)
    assert len(spec.cells()) == 7 and len(spec.companions()) == 6


def test_only_cells_that_are_told_to_forget_have_companions(folder: Path) -> None:
    text = GRID.replace("  requests: L0 L1 U0 L2\n", "").replace("epochs: 2", "requests: L0 L1")
    spec = grid(folder, text)
    assert spec.companions() == []
    assert spec.notices == ["audit: no cell has a forget request, so there is nothing to judge"]


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ("[0, 1]", ["audit: 2 seed(s): a noise floor from a single pair; run 3 or more"]),
        ("[4]", ["audit: 1 seed(s): no noise floor; run 3 or more"]),
        ("[0, 1, 2]", []),
    ],
)
def test_too_few_seeds_are_noted(folder: Path, seeds: str, told: list[str]) -> None:
    spec = grid(folder, GRID.replace("[0, 1, 2]", seeds))
    spec.cells()
    assert spec.notices == told


def test_forgetting_everything_leaves_nothing_to_train(folder: Path) -> None:
    spec = grid(folder, GRID.replace("L0 L1 U0 L2", "L0 U0"))
    with pytest.raises(ClframeError, match="forget everything"):
        spec.companions()


def test_a_grid_without_an_audit_has_none(folder: Path) -> None:
    assert grid(folder, asked("false")).companions() == []


@pytest.mark.parametrize("value", ["true", "{samples: 5, recovery: [2]}", "false"])
def test_the_resolved_grid_is_judged_alike(folder: Path, value: str) -> None:
    spec = grid(folder, asked(value), "seed=[3,4]", "options.eraser.steps=2")
    again = grid(folder, spec.to_yaml())
    assert again.audit == spec.audit
    for cells in (GridSpec.cells, GridSpec.companions):
        assert list(map(run_id, cells(again))) == list(map(run_id, cells(spec)))
    assert [c.copies for c in again.cells()] == [c.copies for c in spec.cells()]
