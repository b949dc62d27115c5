"""What is held after a stream, and what its requests are called, from its rows alone."""

from __future__ import annotations

from typing import Any

import pytest

from clframe.evaluation.order import called, names, retained, withdrawn


def learn(index: int, origin: int) -> dict[str, Any]:
    return {"index": index, "origin": origin, "kind": "learn", "forgets": [], "touches": []}


def forget(index: int, forgets: list[int], touches: list[int]) -> dict[str, Any]:
    row = {"index": index, "origin": touches[0], "kind": "forget"}
    return row | {"forgets": forgets, "touches": touches}


ORDER = [learn(0, 2), learn(1, 0), forget(2, [0], [2]), learn(3, 2), forget(4, [1, 3], [0, 2])]
EVERY = [learn(0, 0), learn(1, 1), forget(2, [], [0]), forget(3, [1], [0, 1])]


@pytest.mark.parametrize(
    ("rows", "held", "gone"),
    [
        ([], [], {}),
        (ORDER[:2], [0, 1], {}),
        (ORDER[:3], [1], {0: 2}),
        (ORDER[:4], [1, 3], {0: 2}),
        (ORDER, [], {0: 2, 1: 4, 3: 4}),
        (EVERY[:3], [0, 1], {}),
        (EVERY, [0], {1: 3}),
    ],
)
def test_what_has_lost_all_is_held_no_more(
    rows: list[dict[str, Any]], held: list[int], gone: dict[int, int]
) -> None:
    assert retained(rows) == held and withdrawn(rows) == gone


def test_requests_are_called_after_the_scenarios_experiences() -> None:
    assert list(names(ORDER).values()) == ["L2", "L0", "U2", "L2", "U0,2"]
    assert called("U", (10, 9)) == "U9,10" and called("L", [3]) == "L3"
    assert called("U", [3], part=True) == "U3 part"


def test_a_request_for_a_part_is_called_after_what_it_touches() -> None:
    assert list(names(EVERY).values()) == ["L0", "L1", "U0 part", "U0,1 part"]


def test_records_from_before_the_rows_said_so_can_be_read() -> None:
    old = [{k: v for k, v in row.items() if k != "touches"} for row in ORDER]
    assert names(old) == names(ORDER) and retained(old) == retained(ORDER)
    bare = [{"index": 0}, {"index": 1}]
    assert names(bare) == {0: "L0", 1: "L1"} and retained(bare) == [0, 1]
