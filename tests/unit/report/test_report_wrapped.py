"""A wrapped strategy against the grid's baseline, and against what it wraps."""

from __future__ import annotations

from clframe.report.columns import COLUMNS
from clframe.report.compare import paired_table
from clframe.report.groups import Group, Method
from clframe.report.load import Cell
from clframe.report.values import Values
from clframe.report.views import paired_view

Study = tuple[list[Group], dict[str, Values]]


def study(*methods: tuple[str, str | None, float]) -> Study:
    """Groups of three seeds on one benchmark: strategy, capacity, accuracy."""
    groups: list[Group] = []
    values: dict[str, Values] = {}
    for strategy, capacity, acc in methods:
        variant = (("capacity", capacity),) if capacity else ()
        config = {"strategy": strategy, "scenario": "split"}
        ids = [f"{strategy}-{capacity}-{seed}" for seed in range(3)]
        cells = [
            Cell(name, None, "done", None, {**config, "seed": seed})  # type: ignore[arg-type]
            for seed, name in enumerate(ids)
        ]
        groups.append(Group("split", Method(strategy, variant), tuple(cells)))
        values |= {name: dict.fromkeys((c.key for c in COLUMNS), acc) for name in ids}
    return groups, values


ALL = study(
    ("fine_tune", None, 20.0),
    ("outer+inner", "500", 63.0),
    ("inner", "200", 50.0),
    ("inner", "500", 60.0),
)


def pairs(of: Study, baseline: str) -> list[tuple[str, str]]:
    table = paired_table(*of, baseline)
    return [(r["method"], r["baseline"]) for r in table if r["metric"] == "acc"]


def test_it_is_compared_with_the_baseline_and_with_its_base_at_equal_settings() -> None:
    assert pairs(ALL, "fine_tune") == [
        ("outer+inner, capacity=500", "fine_tune"),
        ("outer+inner, capacity=500", "inner, capacity=500"),
        ("inner, capacity=200", "fine_tune"),
        ("inner, capacity=500", "fine_tune"),
    ]


def test_once_where_the_base_is_the_baseline() -> None:
    found = pairs(ALL, "inner")
    assert found.count(("outer+inner, capacity=500", "inner, capacity=500")) == 1


def test_not_with_a_base_of_other_settings() -> None:
    missing = study(("fine_tune", None, 20.0), ("outer+inner", "500", 63.0), ("inner", "200", 50.0))
    assert ("outer+inner, capacity=500", "inner, capacity=200") not in pairs(missing, "fine_tune")


def test_both_differences_stand_in_the_report() -> None:
    view = paired_view(paired_table(*ALL, "fine_tune"), "split")
    assert view is not None
    shown = {(row[0], row[1]): row[2].split(" ")[0] for row in view.rows}
    assert len(view.rows) == 4
    assert shown["outer+inner, capacity=500", "fine_tune"] == "+43.0"
    assert shown["outer+inner, capacity=500", "inner, capacity=500"] == "+3.0"
