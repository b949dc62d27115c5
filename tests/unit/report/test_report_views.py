"""Tables as people read them: rounding, missing values, escaping."""

from __future__ import annotations

from clframe.report.html import Section, page
from clframe.report.tables import Record
from clframe.report.views import View, cells_view, cost_view, metric_views
from clframe.report.write import markdown


def metric(key: str, unit: str, mean: float | None, **others: object) -> Record:
    record: Record = {"benchmark": "b", "method": "replay", "reference": None, "metric": key}
    record |= {"unit": unit, "mean": mean, "half": None, "n": 3, "nulls": 0}
    return record | others


def test_units_decide_the_digits_and_zero_has_no_sign() -> None:
    table = [
        metric("acc", "%", 71.04, half=1.43),
        metric("forg", "points", -0.04, half=0.0),
        metric("depth", "points", None, n=0, nulls=3),
        metric("recovered", "ratio", 0.6666, half=0.1),
        metric("recovery", "updates", 12345.6, n=2, nulls=1),
    ]
    accuracy, gap = metric_views(table, "b")
    assert accuracy.rows == [["replay", "3", "71.0 ± 1.4", "0.0 ± 0.0", *["–"] * 5]]
    assert gap.rows == [["replay", "3", *["–"] * 4, "0.67 ± 0.10", "12 345.6 (n=2)"]]


def test_costs_are_whole_numbers_where_they_are_counts() -> None:
    record: Record = {"benchmark": "b", "method": "m", "n": 3, "seconds_total": 4.26}
    record |= {"seconds_train": None, "seconds_evaluate": 1.0, "updates": 1500.3, "samples": 48000}
    record |= {"memory_mb": 0.0441, "memory_samples": 500, "past_samples": 0}
    row = cost_view([record]).rows[0]
    assert row == ["b", "m", "3", "4.3", "–", "1.0", "1 500", "48 000", "0.04", "500", "0"]


def test_a_cell_shows_how_far_it_came() -> None:
    blank: Record = {"benchmark": "b", "method": "m", "seed": 0, "attempts": None, "cell": "x"}
    blank |= {"state": "failed", "updates": 3, "of": 9, "seconds": None, "error": None}
    assert cells_view([blank]).rows[0][4:] == ["3 of 9", "–", "–", "x", ""]
    assert cells_view([blank | {"updates": None, "of": 0}]).rows[0][4] == "–"


def test_words_from_outside_are_escaped() -> None:
    view = View("Cells", ["a|b", "error"], [["x", "<script>alert(1)</script> | two\nlines"]])
    text = page(
        "<grid>", ["1 < 2"], ["<b>"], {"<l>": 'http://h/"'}, [Section("s", "S", (), [view])]
    )
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert 'href="http://h/&quot;"' in text
    assert "<b>Mind</b><ul><li>&lt;b&gt;</li>" in text
    table = markdown(view).splitlines()
    assert table[2] == "| a\\|b | error |"
    assert table[4] == "| x | <script>alert(1)</script> \\| two lines |"
