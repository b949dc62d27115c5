"""The spec's example, streams that learn again, and what the summary of unlearning promises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clframe.errors import ClframeError
from clframe.evaluation.unlearning import (
    Request,
    Row,
    summarize,
)

CHECK = settings(max_examples=100, deadline=None)
PERCENT = st.integers(0, 100).map(lambda n: n / 100)


def ask(text: str) -> list[Request]:
    return [(word[0], int(word[1:])) for word in text.split()]


def rows(*percents: tuple[float | None, ...]) -> list[Row]:
    return [[None if a is None else a / 100 for a in row] for row in percents]


def of(text: str, *percents: tuple[float | None, ...], chance: float = 0.1) -> dict[str, Any]:
    return summarize(ask(text), rows(*percents), [chance] * 4)


SPEC = ("L0 L1 U0 L2", (90,), (88, 92), (10, 91), (12, 89, 94))


def test_example_1_of_the_spec() -> None:
    found = of(*SPEC)
    percent = {
        "retain_accuracy": 91.5,
        "forget_accuracy": 12,
        "forget_above_chance": 2,
        "spill": 1,
        "signed_spill": -1,
        "relapse": 2,
        "end_relapse": 2,
        "peak_relapse": 2,
        "worst_held": 89,
    }
    assert {k: 100 * found[k] for k in percent} == pytest.approx(percent)
    assert found["forgetting_per_task"] == pytest.approx({1: 0.03, 2: 0})
    learned, kept, forgotten, new = (100 * s for s in found["stability"])
    assert f"{learned:.6f} {kept:.6f} {new:.6f}" == "98.888889 98.550725 100.000000"
    assert forgotten == pytest.approx(-1)
    assert (found["held"], found["forgotten"], found["worst_held_task"]) == ([1, 2], [0], 1)
    assert found["late_relapse"] is None and not found["void"]


def test_forgetting_is_split_into_what_learning_and_unlearning_took() -> None:
    found = of(*SPEC)
    assert found["lost_by_learning_per_task"] == pytest.approx({1: 0.02, 2: 0})
    assert found["lost_by_unlearning_per_task"] == pytest.approx({1: 0.01, 2: 0})


def test_rows_are_the_report_request_by_request() -> None:
    table = [tuple(row.values()) for row in of(*SPEC)["rows"]]
    kinds = [(0, "L", [0]), (1, "L", [1]), (2, "U", [0]), (3, "L", [2])]
    assert [row[:3] for row in table] == kinds
    assert [row[3] for row in table] == pytest.approx([0.9, 0.9, 0.91, 0.915])
    assert [row[4:] for row in table[:2]] == [(None, None, None)] * 2
    assert table[2][4:6] == pytest.approx((0.1, -0.01)) and table[2][6] is None
    assert table[3][5] is None and (table[3][4], table[3][6]) == pytest.approx((0.12, 0.02))


def test_spill_counts_forgotten_tasks_and_gains_where_signed_spill_does_not() -> None:
    found = of(
        "L0 L1 L2 U0 U1", (90,), (90, 90), (90, 90, 90), (10, 86, 92), (30, 10, 91), chance=0.1
    )
    assert found["spill_per_request"] == pytest.approx([None, None, None, 0.06, 0.21])
    assert found["signed_spill_per_request"] == pytest.approx([None, None, None, -0.01, -0.01])
    assert found["spill"] == pytest.approx(0.135)
    assert found["relapse"] is None, "no learn request came later"
    assert [f["peak_relapse"] for f in found["forgets"]] == pytest.approx([0.2, None])


def test_relapse_is_read_at_its_end_at_its_peak_and_late() -> None:
    found = summarize(
        ask("L0 U0 L1 L2 L3 L4"),
        rows((90,), (10,), (40, 80), (15, 80, 80), (20, 80, 80, 80), (12, 80, 80, 80, 80)),
        [0.1] * 5,
    )
    (only,) = found["forgets"]
    assert only["peak_relapse"] == pytest.approx(0.3)
    assert only["late_relapse"] == pytest.approx(0.1), "from the third further task on"
    assert only["end_relapse"] == pytest.approx(0.02)
    assert found["relapse"] == pytest.approx((0.3 + 0.25 + 0.05 + 0.08) / 4)
    peaks = [row["peak_relapse"] for row in found["rows"]]
    assert peaks == pytest.approx([None, None, 0.3, 0.3, 0.3, 0.3])


def test_a_relapse_below_the_first_accuracy_is_negative() -> None:
    assert of("L0 U0 L1", (90,), (10,), (5, 90))["peak_relapse"] == pytest.approx(-0.05)


AGAIN = (
    "L0 L1 U0 L2 L0 U1",
    (90,),
    (88, 92),
    (10, 91),
    (30, 89, 94),
    (95, 88, 93),
    (94, 8, 92),
)


def test_a_task_that_is_learned_again_is_held_again() -> None:
    found = of(*AGAIN)
    assert (found["held"], found["forgotten"]) == ([0, 2], [1])
    assert found["forget_accuracy"] == pytest.approx(0.08)
    first, second = found["forgets"]
    assert (first["until"], second["until"]) == (4, None)
    assert first["peak_relapse"] == first["end_relapse"] == pytest.approx(0.2), "not 85 points"
    assert second["end_relapse"] is None, "nothing came after"
    assert found["relapse_per_request"] == pytest.approx([None, None, None, 0.2, None, None])
    assert found["forgetting_per_task"] == pytest.approx({0: 0.01, 2: 0.02})
    stable = found["stability"]
    assert stable[2] == pytest.approx(((0.1 - 0.1) + (0.1 - 0.3)) / 2)
    assert stable[4] == pytest.approx((1 + 94 / 95) / 2)
    peaks = [row["peak_relapse"] for row in found["rows"]]
    assert peaks == pytest.approx([None, None, None, 0.2, 0.2, 0.2])
    assert found["rows"][3]["forget_accuracy"] == pytest.approx(0.3)
    assert found["rows"][4]["forget_accuracy"] is None


def test_what_does_not_exist_is_none() -> None:
    kept = of("L0 L1", (90,), (80, 90))
    for key in ("forget_accuracy", "forget_above_chance", "spill", "relapse", "peak_relapse"):
        assert kept[key] is None, key
    assert kept["forgets"] == [] and not kept["void"]
    gone = of("L0 U0", (90,), (10,))
    assert gone["retain_accuracy"] is gone["worst_held"] is gone["forgetting"] is None
    assert gone["signed_spill"] is None and gone["spill"] == 0
    assert of("L0 U0", (0,), (0,))["stability"] == [None, 0.1]


def test_a_task_never_learned_cannot_be_forgotten() -> None:
    assert of("L0 L1 U0", (90,), (24.9, 90), (10, 90))["void"]
    assert not of("L0 L1 U0", (90,), (25, 90), (10, 90))["void"]
    found = of("L0 L1 U0 U1", (90,), (20, 90), (10, 90), (8, 12))
    assert [len(f["void"]) for f in found["forgets"]] == [1, 0]
    assert "accuracy before was 0.200" in found["forgets"][0]["void"][0]
    assert found["forget_accuracy"] == pytest.approx(0.1)
    assert found["forget_accuracy_valid"] == pytest.approx(0.12)


def test_a_model_that_retains_nothing_has_no_forget_score() -> None:
    assert not of("L0 L1 U0", (90,), (90, 90), (10, 15.1))["void"]
    for kept in (15, 10, 2):
        found = of("L0 L1 U0", (90,), (90, 90), (10, kept))
        assert "retain accuracy" in found["forgets"][0]["void"][0]
        assert found["forget_accuracy_valid"] is None


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Request], list[Row]]:
    held: set[int] = set()
    requests: list[Request] = []
    for _ in range(draw(st.integers(1, 8))):
        task = draw(st.integers(0, 3))
        requests.append(("U" if task in held else "L", task))
        held ^= {task}
    return requests, [[draw(PERCENT) for _ in range(4)] for _ in requests]


@CHECK
@given(histories())
def test_what_holds_for_any_history(history: tuple[list[Request], list[Row]]) -> None:
    requests, table = history
    found = summarize(requests, table, [0.1] * 4)
    assert set(found["held"]) | set(found["forgotten"]) == {k for _, k in requests}
    assert not set(found["held"]) & set(found["forgotten"])
    for f in found["forgets"]:
        if f["peak_relapse"] is not None:
            assert f["peak_relapse"] >= f["end_relapse"]
            assert f["late_relapse"] is None or f["peak_relapse"] >= f["late_relapse"]
    for k, lost in found["forgetting_per_task"].items():
        first = max(t for t, request in enumerate(requests) if request == ("L", k))
        parts = found["lost_by_learning_per_task"][k] + found["lost_by_unlearning_per_task"][k]
        assert parts == pytest.approx(float(table[first][k] or 0) - float(table[-1][k] or 0))
        assert lost >= max(0.0, parts - 1e-12)
    peaks = [row["peak_relapse"] for row in found["rows"] if row["peak_relapse"] is not None]
    assert peaks == sorted(peaks)


REFUSED: dict[str, tuple[Any, str]] = {
    "not held": (lambda: of("U0", (90,)), "U0, but task 0 is not held"),
    "held": (lambda: of("L0 L0", (90,), (90,)), "L0, but task 0 is held already"),
    "twice": (lambda: of("L0 U0 U0", (90,), (9,), (9,)), "request 2 is U0"),
    "op": (lambda: of("F0", (90,)), "'F'"),
    "nothing": (lambda: summarize([], [], []), "no request"),
    "a row": (lambda: of("L0 L1", (90,)), "2 requests but 1 rows"),
    "percent": (lambda: summarize([("L", 0)], [[90]], [0.1]), r"100% is 1\.0"),
    "missing": (lambda: of("L0 L1", (90,), (None, 90)), "row 1 gives nan for task 0"),
    "chance": (lambda: summarize([("L", 0)], [[0.9]], [10]), "chance of task 0 is 10"),
    "unknown": (lambda: summarize([("L", 3)], [[0.9]], [0.1]), "task 3"),
}


@pytest.mark.parametrize("call,message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ClframeError, match=message):
        call()


def test_what_is_forgotten_together_is_judged_by_what_it_was_before() -> None:
    asked = [("L", 0), ("L", 1), ("L", 2), ("U", (0, 1)), ("L", 3)]
    table = rows((90,), (90, 90), (90, 90, 80), (10, 20, 70), (30, 20, 75, 90))
    found = summarize(asked, table, [0.1] * 4)
    assert [f["before"] for f in found["forgets"]] == pytest.approx([0.9, 0.9])
    assert [f["after"] for f in found["forgets"]] == pytest.approx([0.1, 0.2])
    assert found["signed_spill"] == pytest.approx(-0.1) and found["spill"] == pytest.approx(0.1)
    assert found["rows"][3]["tasks"] == [0, 1]
    assert found["rows"][3]["retain_accuracy"] == pytest.approx(0.7)
    assert found["relapse"] == pytest.approx(0.2)
