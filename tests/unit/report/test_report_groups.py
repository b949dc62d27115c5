"""Methods are named by what varies, benchmarks by what changes the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clframe.report.groups import Method, Naming
from clframe.report.load import Cell
from clframe.report.style import DASHES, GREY, PALETTE, looks


def cell(name: str, strategy: str, scenario: str = "split", seed: int = 0, **rest: Any) -> Cell:
    record = {"reference": "joint"} if strategy == "joint" else {}
    facts = {"strategy": strategy, "scenario": scenario, "seed": seed} | rest
    return Cell(name, Path(name), "done", None, facts, record)


def test_an_axis_that_varies_becomes_part_of_the_method() -> None:
    cells = [
        cell("a", "fine_tune", batch_size=32),
        cell("b", "replay", batch_size=32),
        cell("c", "replay", batch_size=64),
        cell("d", "replay", batch_size=64, seed=1),
    ]
    naming = Naming.of(cells)
    assert [naming.methods[c.id].label for c in cells] == [
        "fine_tune",
        "replay, batch_size=32",
        "replay, batch_size=64",
        "replay, batch_size=64",
    ]
    groups = naming.groups(cells)
    assert [(g.method.label, g.seeds) for g in groups][-1] == ("replay, batch_size=64", (0, 1))


def test_an_option_left_at_its_default_still_tells_two_methods_apart() -> None:
    cells = [
        cell("a", "replay", options={}),
        cell("b", "replay", options={"replay": {"capacity": 50}}),
    ]
    labels = [Naming.of(cells).methods[c.id].label for c in cells]
    assert labels == ["replay, capacity=default", "replay, capacity=50"]


def test_options_are_called_alike_whoever_takes_them() -> None:
    """So that a baseline's variant of the same capacity is found; two in a chain are told apart."""
    sizes = [("replay", 1), ("replay", 2), ("outer+hold", 1), ("outer+hold", 2)]
    cells = [cell(f"{s}-{n}", s, options={s.split("+")[-1]: {"capacity": n}}) for s, n in sizes]
    labels = [Naming.of(cells).methods[c.id].label for c in cells]
    assert labels == [f"{s}, capacity={n}" for s, n in sizes]
    both = [
        cell(str(n), "outer+hold", options={"outer": {"rate": n}, "hold": {"rate": 3 - n}})
        for n in (1, 2)
    ]
    found = Naming.of(both).methods["1"].label
    assert found == "outer+hold, options.hold.rate=2, options.outer.rate=1"


def test_a_key_that_old_configs_lack_does_not_split_a_method() -> None:
    cells = [cell("a", "replay", threads=1), cell("b", "replay", seed=1)]
    assert {m.label for m in Naming.of(cells).methods.values()} == {"replay"}


def test_options_of_the_scenario_and_requests_make_another_benchmark() -> None:
    cells = [
        cell("a", "replay", options={"split": {"experiences": 2}}),
        cell("b", "replay", options={"split": {"experiences": 5}}),
        cell("c", "ewc", requests="L0 L1"),
        cell("d", "ewc", requests="L0 F0"),
    ]
    naming = Naming.of(cells)
    assert [naming.benchmarks[c.id] for c in cells] == [
        "split, experiences=2",
        "split, experiences=5",
        "split, requests=L0 L1",
        "split, requests=L0 F0",
    ]
    assert {naming.methods[c.id].label for c in cells} == {"replay", "ewc"}


def test_strategies_that_met_other_streams_are_not_compared() -> None:
    forget = [{"learn": 0}, {"learn": 1}, {"forget": {"tasks": [1]}}]
    cells = [
        cell("a", "replay", requests=forget[:2]),
        cell("b", "ewc", requests=forget),
        cell("c", "lwf", requests=None),
        cell("d", "der", requests=None),
    ]
    naming = Naming.of(cells)
    assert [naming.benchmarks[c.id] for c in cells] == [
        "split, requests=L0 L1",
        "split, requests=L0 L1 U1",
        "split",
        "split",
    ]
    assert len(naming.groups(cells)) == 4


def test_silent_keys_count_only_where_nothing_else_tells_cells_apart() -> None:
    several = [cell("a", "replay", devices=1), cell("b", "replay", seed=1, devices=2)]
    assert Naming.of(several).methods["b"].label == "replay"
    alike = [cell("a", "replay", data={"root": "x"}), cell("b", "replay", data={"root": "y"})]
    assert Naming.of(alike).methods["b"].label == "replay, root=y"


def test_keys_with_equal_last_parts_are_written_whole() -> None:
    cells = [
        cell("a", "replay", optim={"lr": 0.1, "name": "sgd"}, options={"replay": {"lr": 1}}),
        cell("b", "replay", optim={"lr": 0.2, "name": "adamw"}, options={"replay": {"lr": 2}}),
    ]
    label = Naming.of(cells).methods["b"].label
    assert label == "replay, optim.lr=0.2, optim.name=adamw, options.replay.lr=2"
    assert Naming.of(cells).methods["b"] == Method(
        "replay", (("optim.lr", "0.2"), ("optim.name", "adamw"), ("options.replay.lr", "2"))
    )


def test_a_strategy_keeps_its_colour_and_its_variants_differ_by_dash() -> None:
    cells = [cell(f"m{i}", f"method_{i}", scenario=s) for i in range(12) for s in ("one", "two")]
    cells += [cell(f"v{b}", "variant", batch_size=b) for b in (16, 32, 48, 64)]
    cells.append(cell("j", "joint"))
    found = looks(Naming.of(cells).groups(cells))
    assert found["joint"].color == GREY
    first, second = (found[f"variant, batch_size={b}"] for b in (16, 32))
    assert first.color == second.color
    assert first.dash != second.dash
    assert len({(k.color, k.dash) for k in found.values()}) == len(found)
    assert found["method_0"].color == found["method_10"].color == PALETTE[0]
    assert (found["method_0"].dash, found["method_10"].dash) == DASHES[:2]


def test_a_strategy_of_many_variants_has_a_colour_for_each() -> None:
    cells = [cell(f"v{b}", "variant", batch_size=b) for b in range(16, 136, 10)]
    cells.append(cell("m", "method"))
    found = looks(Naming.of(cells).groups(cells))
    assert len({k.color for k in found.values()}) == len(PALETTE)
    assert len({(k.color, k.dash) for k in found.values()}) == len(found) == 13
