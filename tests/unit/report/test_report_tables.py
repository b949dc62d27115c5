"""The numbers of the tables against the worked examples of metrics.md and values by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import config, write_cell

from clframe.errors import ClframeError
from clframe.report.columns import COLUMNS
from clframe.report.compare import aggregate_table, choose_baseline, paired_table
from clframe.report.groups import Group, Method, Naming
from clframe.report.load import Cell, load_cell
from clframe.report.tables import (
    cost_table,
    metrics_table,
    seeds_table,
    settings_table,
    warnings_of,
)
from clframe.report.values import Values, cell_values
from clframe.report.views import aggregate_view, metric_views, paired_view

EXAMPLE = Path(__file__).parents[1] / "evaluation" / "metrics_example.json"
A = [71.2, 69.8, 72.5, 70.1, 71.9]
B = [69.9, 69.5, 70.2, 70.4, 70.8]


def group(strategy: str, seeds: int, benchmark: str = "split", **record: Any) -> Group:
    cells = [
        Cell(
            f"{benchmark}-{strategy}-{seed}",
            Path(strategy),
            "done",
            None,
            {"strategy": strategy, "scenario": benchmark, "seed": seed},
            record,
        )
        for seed in range(seeds)
    ]
    return Group(benchmark, Method(strategy), tuple(cells))


def numbers(of: Group, acc: list[float | None], **others: list[float | None]) -> dict[str, Values]:
    blank: Values = dict.fromkeys(c.key for c in COLUMNS)
    return {
        cell.id: blank | {"acc": acc[s]} | {key: column[s] for key, column in others.items()}
        for s, cell in enumerate(of.cells)
    }


def pick(table: list[dict[str, Any]], **what: Any) -> dict[str, Any]:
    (found,) = [r for r in table if all(r[k] == v for k, v in what.items())]
    return found


@pytest.fixture
def study(tmp_path: Path) -> tuple[list[Group], dict[str, Values]]:
    """The worked example as one cell, with references whose R has J, J* and I in it."""
    example = json.loads(EXAMPLE.read_text())
    table = np.full((13, 3), np.nan)
    for t, _, i, accuracy in example["rows"]:
        table[t, i] = accuracy
    refs = example["refs"]
    joint, alone = np.full((13, 3), 0.5), np.full((13, 3), 0.5)
    for k, end in enumerate((4, 8, 12)):
        joint[end, k], alone[end, k] = refs["joint_prefix"][k], refs["independent"][k]
    joint[12, :2] = refs["joint_all"][:2]
    made = {"replay": table, "joint": joint, "independent": alone}
    cells = [
        load_cell(write_cell(tmp_path / "g", config(name, "split_digits", 0), values, [4, 4, 4]))
        for name, values in made.items()
    ]
    groups = Naming.of(cells).groups(cells)
    values, broken = cell_values(groups)
    assert not broken
    return groups, values


def test_every_column_of_the_worked_example(study: tuple[list[Group], dict[str, Values]]) -> None:
    groups, values = study
    own = values[groups[0].cells[0].id]
    expected = {"acc": 78.6666667, "forg": 3.5, "min_acc": 45.0, "wc_acc": 58.3333333}
    expected |= {"wf10": 22.6666667, "wp10": 52.6666667, "aaa": 62.5972222, "depth": 34.3333333}
    expected |= {"depth_recent": 34.0, "depth_rel": 0.4271007, "area_norm": 20.3333333}
    expected |= {"recovered": 0.6666667, "recovery": 4.0, "learning_acc": 81.0, "aia": 79.7222222}
    expected |= {"bwt": -3.5, "forgetting": 5.0, "fwt": 5.5, "intransigence": 2.3333333}
    expected |= {"fwt_independent": 1.0, "forgetting_ratio": -0.0559783}
    expected |= {"time_to_min": 1.6666667, "wf100": 22.6666667, "wp100": 52.6666667}
    # test sets of 100, 200 and 300 samples: (0.71 + 2 x 0.8 + 3 x 0.85) / 6 at the end
    expected |= {"pooled": 81.0000000, "pooled_aia": 80.2222222}
    assert set(own) == set(expected)
    for key, value in expected.items():
        assert own[key] == pytest.approx(value, abs=1e-6), key


def test_references_have_a_bound_and_no_gap(study: tuple[list[Group], dict[str, Values]]) -> None:
    groups, values = study
    joint, alone = (values[g.cells[0].id] for g in groups[1:])
    assert {k for k, v in joint.items() if v is not None} == {
        *("acc", "learning_acc", "aia", "pooled", "pooled_aia")
    }
    assert joint["acc"] == pytest.approx(100 * (0.79 + 0.81 + 0.88) / 3)
    assert {k for k, v in alone.items() if v is not None} == {"learning_acc"}
    table = metrics_table(groups, values)
    assert "depth" not in {r["metric"] for r in table if r["reference"]}
    gap = metric_views(table, "split_digits")[1]
    assert [row[0] for row in gap.rows] == ["replay"]
    shares, times = (gap.head.index(h) for h in gap.head if h.startswith("recover"))
    assert times == shares + 1
    assert gap.rows[0][shares : times + 1] == ["0.67", "4.0"]


def test_without_references_their_columns_are_absent(
    study: tuple[list[Group], dict[str, Values]],
) -> None:
    groups, _ = study
    values, _ = cell_values(groups[:1])
    metrics = {r["metric"] for r in metrics_table(groups[:1], values)}
    assert "intransigence" not in metrics
    assert {"acc", "bwt", "recovery"} <= metrics


def test_boundaries_only_means_no_minima(tmp_path: Path) -> None:
    table = np.full((9, 2), 0.5)
    cfg = config("replay", "split_digits", 0, eval={"rho": 0, "subset": 250})
    cell = load_cell(write_cell(tmp_path / "g", cfg, table, [4, 4]))
    groups = Naming.of([cell]).groups([cell])
    own = cell_values(groups)[0][cell.id]
    assert own["acc"] == 50.0
    assert own["min_acc"] is own["depth"] is own["aaa"] is None
    assert any("boundaries only" in w for w in warnings_of([cell]))


def test_means_and_intervals_are_those_of_the_specification() -> None:
    ours, theirs = group("ours", 5), group("theirs", 5)
    values = numbers(ours, A) | numbers(theirs, [*B[:4], None])
    table = metrics_table([ours, theirs], values)
    mine = pick(table, method="ours", metric="acc")
    assert (mine["n"], mine["nulls"], mine["unit"]) == (5, 0, "%")
    assert mine["mean"] == pytest.approx(71.1)
    assert mine["half"] == pytest.approx(1.429263, abs=1e-6)
    assert (mine["low"], mine["high"]) == pytest.approx((71.1 - 1.429263, 71.1 + 1.429263))
    other = pick(table, method="theirs", metric="acc")
    assert (other["n"], other["nulls"]) == (4, 1)
    none = pick(table, method="ours", metric="depth")
    assert (none["n"], none["nulls"], none["mean"], none["half"]) == (0, 5, None, None)
    rows = {row[0]: row for row in metric_views(table, "split")[0].rows}
    assert rows["ours"][1:3] == ["5", "71.1 ± 1.4"]
    assert rows["theirs"][2] == "70.0 ± 0.6 (n=4)"


def test_paired_differences_are_those_of_the_specification() -> None:
    ours, base = group("ours", 5), group("fine_tune", 5)
    values = numbers(ours, A) | numbers(base, B)
    row = pick(paired_table([base, ours], values, "fine_tune"), metric="acc")
    assert (row["method"], row["baseline"], row["n"]) == ("ours", "fine_tune", 5)
    assert row["mean"] == pytest.approx(0.94)
    assert row["half"] == pytest.approx(1.234192, abs=1e-6)
    assert row["p_t"] == pytest.approx(0.101957, abs=1e-6)
    assert row["p_sign_flip"] == row["p_holm"] == 0.1875


def test_pairs_with_a_missing_seed_are_dropped_and_n_says_so() -> None:
    ours, base = group("ours", 5), group("fine_tune", 4)
    values = numbers(ours, A) | numbers(base, B[:4])
    table = paired_table([base, ours], values, "fine_tune")
    row = pick(table, metric="acc")
    assert (row["n"], row["seeds"]) == (4, 5)
    assert row["mean"] == pytest.approx(np.mean(np.subtract(A[:4], B[:4])))
    assert pick(table, metric="depth")["mean"] is None
    view = paired_view(table, "split")
    assert view is not None
    assert view.rows[0][2].startswith("+0.9 ± ")
    assert view.rows[0][2].endswith("(n=4)")


def test_holm_is_taken_over_all_methods_of_a_metric() -> None:
    base, near, far = group("fine_tune", 5), group("near", 5), group("far", 5)
    values = numbers(base, B) | numbers(near, A) | numbers(far, [b + 5 for b in B])
    table = paired_table([base, near, far], values, "fine_tune")
    assert pick(table, method="far", metric="acc")["p_sign_flip"] == 0.0625
    assert pick(table, method="far", metric="acc")["p_holm"] == 0.125
    assert pick(table, method="near", metric="acc")["p_holm"] == 0.1875


def test_a_variant_is_compared_with_the_baseline_of_its_own_variant() -> None:
    def variant(strategy: str, size: str) -> Group:
        whole = group(strategy, 2)
        cells = [Cell(f"{c.id}-{size}", c.folder, "done", None, c.config) for c in whole.cells]
        return Group("split", Method(strategy, (("batch_size", size),)), tuple(cells))

    groups = [variant(s, b) for s in ("fine_tune", "replay") for b in ("32", "64")]
    values: dict[str, Values] = {}
    for place, member in enumerate(groups):
        values |= numbers(member, [10.0 * place, 10.0 * place])
    table = paired_table(groups, values, choose_baseline(groups, None))
    rows = [r for r in table if r["metric"] == "acc" and r["method"].startswith("replay")]
    assert [r["baseline"] for r in rows] == ["fine_tune, batch_size=32", "fine_tune, batch_size=64"]
    assert [r["mean"] for r in rows] == [20.0, 20.0]
    named = choose_baseline(groups, "replay, batch_size=64")
    rows = [r for r in paired_table(groups, values, named) if r["metric"] == "acc"]
    assert {r["baseline"] for r in rows} == {"replay, batch_size=64"}
    assert len(rows) == 3


def test_the_aggregate_is_that_of_the_specification_and_warns_below_five_seeds() -> None:
    ours, base = group("ours", 5), group("fine_tune", 5)
    values = numbers(ours, A) | numbers(base, B)
    table = aggregate_table([base, ours], values, "fine_tune")
    row = pick(table, method="ours", metric="acc")
    assert row["iqm"] == pytest.approx(71.066667, abs=1e-6)
    assert row["p_better"] == pytest.approx(0.72)
    assert row["low"] < row["iqm"] < row["high"]
    assert (row["seeds"], row["benchmarks"], row["warning"]) == (5, 1, None)
    assert pick(table, method="fine_tune", metric="acc")["p_better"] is None
    assert not [r for r in table if r["metric"] == "min_acc"]
    few = group("few", 3)
    table = aggregate_table([few], numbers(few, A[:3]), None)
    assert "3 seed(s): below 5" in table[0]["warning"]
    view = aggregate_view(table, None)
    assert view is not None
    assert "too narrow" in view.note


def test_the_aggregate_uses_only_seeds_that_every_benchmark_has() -> None:
    one, two = group("ours", 3, "one"), group("ours", 2, "two")
    values = numbers(one, [50.0, 60.0, 90.0]) | numbers(two, [70.0, 80.0])
    row = pick(aggregate_table([one, two], values, None), metric="acc")
    assert (row["seeds"], row["benchmarks"]) == (2, 2)
    assert row["iqm"] == pytest.approx(65.0)  # of 50, 60, 70, 80 without the lowest and highest
    single = group("ours", 3, "one"), group("other", 3, "two")
    values = numbers(single[0], A[:3]) | numbers(single[1], B[:3])
    assert aggregate_table(single, values, None) == []


def test_the_baseline_is_named_or_the_grids_first() -> None:
    groups = [group("joint", 1, reference="joint"), group("replay", 1), group("fine_tune", 1)]
    assert choose_baseline(groups, None) == "replay"
    assert choose_baseline(groups[2:], None) == "fine_tune"
    assert choose_baseline(groups[:1], None) is None
    with pytest.raises(ClframeError, match=r"'reply' to compare with\. Did you mean 'replay'"):
        choose_baseline(groups, "reply")


def test_costs_are_means_over_seeds_in_megabytes() -> None:
    record = {"seconds": {"total": 4.0, "train": 3.0}, "cost": {"memory_bytes": 2_500_000}}
    row = cost_table([group("replay", 2, **record)])[0]
    assert (row["n"], row["seconds_total"], row["seconds_train"]) == (2, 4.0, 3.0)
    assert row["memory_mb"] == 2.5
    assert row["updates"] is row["seconds_evaluate"] is None


def test_settings_say_rho_n_budget_seeds_and_what_differs() -> None:
    one = group("replay", 2, eval={"rho": 1, "subset": 250, "split": "test", "fixed": True})
    two = group("ewc", 1, eval={"rho": 5, "subset": 250, "split": "test"}, git={"dirty": True})
    cells = [*one.cells, *two.cells]
    found = {r["setting"]: r["value"] for r in settings_table(cells, "ewc")}
    assert found["evaluated every ρ updates"] == "1, 5"
    assert found["samples per experience, n"] == "250"
    assert found["seeds"] == "0, 1"
    assert found["baseline of the comparisons"] == "ewc"
    assert found["budget: epochs per experience"] == "not recorded"
    warned = warnings_of(cells)
    assert any("differ in ρ" in w for w in warned)
    assert any("uncommitted" in w for w in warned)
    assert not warnings_of(list(one.cells))


def test_one_record_per_seed_holds_all_its_numbers() -> None:
    ours = group("ours", 2)
    table = seeds_table([ours], numbers(ours, A[:2]))
    assert [(r["seed"], r["acc"], r["depth"]) for r in table] == [(0, 71.2, None), (1, 69.8, None)]
