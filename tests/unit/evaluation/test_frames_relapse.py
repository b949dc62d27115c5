"""Curves of what was forgotten: how well it is still known, and what of it has come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clframe.core.experience import Experience, Stream
from clframe.evaluation.frames import Block, Frames
from tests.unit.evaluation.test_bank import experience

TOTAL = 100


def stream(order: str) -> Stream:
    """`L0 L1 U0`, with one class an experience."""
    made: list[Experience] = []
    for word in order.split():
        number = int(word[1:])
        one = experience(number, (number,), [(0, number)])
        if word[0] == "U":
            (lost,) = [e.index for e in made if e.kind == "learn" and e.origin == number][-1:]
            one = replace(one, kind="forget", forgets=(lost,))
        made.append(replace(one, index=len(made)))
    return Stream("toy", tuple(made), 4, "class", tuple(range(4)))


def frames_of(order: str) -> Frames:
    return Frames(stream(order), ["net/seen"], "net/seen", growing=False)


def series(frames: Frames, train: int, counts: list[list[int]], first: int) -> dict[str, list]:
    """The curves of some evaluations in a row while position `train` is met."""
    seen = sum(p <= train for p in frames.positions)
    assert all(len(row) == seen for row in counts)
    steps = [first + i for i in range(len(counts))]
    block = Block(train, seen, seen, [TOTAL] * seen, steps)
    found = frames.series(block, np.array(counts)[:, None, :])
    assert found["iteration"].tolist() == steps
    return dict(zip(found["keys"].tolist(), found["values"].T.tolist(), strict=True))


def test_nothing_is_told_before_something_was_forgotten() -> None:
    frames = frames_of("L0 L1 U0 L2")
    found = series(frames, 1, [[90, 10], [80, 50]], 1)
    assert list(found) == ["acc/exp_00", "acc/exp_01", "min_acc", "wc_acc", "avg_acc"]


def test_relapse_counts_from_the_end_of_the_request() -> None:
    frames = frames_of("L0 L1 U0 L2")
    during = series(frames, 2, [[90, 60], [40, 55], [10, 50]], 3)
    assert during["forget_acc"] == [0.9, 0.4, 0.1]
    assert during["relapse"] == [0, 0, 0], "while it is forgotten nothing comes back"
    later = series(frames, 3, [[5, 50, 0], [40, 50, 60]], 6)
    assert later["forget_acc"] == [0.05, 0.4]
    assert later["relapse"] == pytest.approx([-0.05, 0.3])


def test_what_is_held_keeps_its_curves_to_itself() -> None:
    frames = frames_of("L0 L1 U0 L2")
    series(frames, 1, [[20, 60]], 2)
    found = series(frames, 2, [[10, 60], [10, 30]], 3)
    assert found["avg_acc"] == [0.6, 0.3]
    assert found["min_acc"] == found["wc_acc"] == [0.6, 0.3], "a request learns nothing"
    later = series(frames, 3, [[99, 70, 80]], 5)
    assert later["avg_acc"] == [0.75] and later["min_acc"] == [0.3]


def test_each_of_several_is_measured_from_its_own_request() -> None:
    frames = frames_of("L0 L1 L2 U0 L3 U1")
    series(frames, 3, [[10, 80, 80]], 1)
    series(frames, 4, [[30, 80, 80, 80]], 2)
    during = series(frames, 5, [[50, 60, 80, 80], [40, 20, 80, 80]], 3)
    assert during["forget_acc"] == pytest.approx([0.55, 0.3])
    assert during["relapse"] == pytest.approx([(0.4 + 0) / 2, (0.3 + 0) / 2])


def test_a_request_may_take_several_at_once() -> None:
    plain = stream("L0 L1 L2 U0 L3")
    exps = list(plain.experiences)
    exps[3] = replace(exps[3], forgets=(0, 1))
    frames = Frames(replace(plain, experiences=tuple(exps)), ["net/seen"], "net/seen", False)
    assert series(frames, 3, [[10, 30, 80]], 1)["forget_acc"] == pytest.approx([0.2])
    assert series(frames, 4, [[20, 60, 80, 90]], 2)["relapse"] == pytest.approx([0.2])


def test_parts_of_a_request_are_as_good_as_the_whole() -> None:
    whole, parts = frames_of("L0 L1 U0 L2"), frames_of("L0 L1 U0 L2")
    counts = [[90, 60], [40, 55], [10, 50]]
    series(whole, 2, counts, 3)
    for i, row in enumerate(counts):
        series(parts, 2, [row], 3 + i)
    assert whole.after == parts.after == {0: 0.1}


def test_state_goes_on_where_it_was() -> None:
    whole, resumed = frames_of("L0 L1 U0 L2"), frames_of("L0 L1 U0 L2")
    for frames in (whole, resumed):
        series(frames, 1, [[90, 40]], 2)
        series(frames, 2, [[10, 50]], 3)
    fresh = frames_of("L0 L1 U0 L2")
    fresh.lows, fresh.after = dict(resumed.lows), dict(resumed.after)
    assert series(whole, 3, [[60, 50, 10]], 4) == series(fresh, 3, [[60, 50, 10]], 4)


def test_without_the_end_of_the_request_nothing_can_be_said() -> None:
    found = series(frames_of("L0 L1 U0 L2"), 3, [[60, 50, 10]], 4)
    assert found["forget_acc"] == [0.6] and np.isnan(found["relapse"]).all()


def test_what_is_learned_again_leaves() -> None:
    frames = frames_of("L0 L1 U0 L0 U1 U0")
    assert "relapse" in series(frames, 2, [[10, 60]], 1)
    again = series(frames, 3, [[20, 60, 20]], 2)
    assert "relapse" not in again and again["avg_acc"] == pytest.approx([0.4])
    assert series(frames, 4, [[90, 30, 90]], 3)["forget_acc"] == [0.3]
    last = series(frames, 5, [[10, 50, 10]], 4)
    assert last["forget_acc"] == pytest.approx([0.3]), "the latest coming alone, not both"
    assert last["relapse"] == pytest.approx([(0.2 + 0) / 2])
    assert np.isnan(last["avg_acc"]).all(), "nothing is held"
