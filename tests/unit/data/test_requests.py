"""Requests: order of learning, what a forget request withdraws, and every way to get one wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clframe.audit.evidence import gather
from clframe.config.requests import never_forgotten, never_learned, read_requests
from clframe.core.experience import Experience, Samples, Stream
from clframe.data import stream as spliced_stream
from clframe.errors import ClframeError, ConfigError
from clframe.evaluation.order import names


def splice(stream: Stream, requests: Any) -> Stream:
    return spliced_stream.splice(stream, read_requests(requests))


def samples(y: list[int], task: int, first: int) -> Samples:
    n = len(y)
    x = torch.arange(first, first + n, dtype=torch.float32)[:, None]
    return Samples(x, torch.tensor(y), torch.full((n,), task), torch.arange(first, first + n))


@pytest.fixture
def stream() -> Stream:
    """Three experiences of two classes, four training samples each; uids 0-3, 4-7, 8-11."""
    exps = tuple(
        Experience(
            e, "learn", (e,), (2 * e, 2 * e + 1),
            samples([2 * e, 2 * e + 1] * 2, e, 4 * e), samples([2 * e], e, 100 + e), origin=e,
        )
        for e in range(3)
    )  # fmt: skip
    return Stream("toy", exps, 6, "task", tuple(range(6)))


def shape(stream: Stream) -> list[tuple[str, int, int]]:
    return [(e.kind[0], e.index, e.origin) for e in stream]


def test_no_requests_leave_the_stream_as_it_is(stream: Stream) -> None:
    assert splice(stream, None) is stream


def test_learn_requests_choose_and_order_experiences(stream: Stream) -> None:
    spliced = splice(stream, "L2 L0")
    assert shape(spliced) == [("l", 0, 2), ("l", 1, 0)]
    assert spliced.experiences[0].train is stream.experiences[2].train
    assert spliced.num_classes == 6 and spliced.class_order == stream.class_order


@pytest.mark.parametrize(
    "requests",
    [
        "L0 L1 F0 L2",
        ["L0", "L1", "U0", "L2"],
        [{"learn": 0}, {"learn": 1}, {"forget": {"tasks": [0]}}, {"learn": 2}],
        [
            {"learn": 0, "forget": None, "data": False},
            {"learn": 1},
            {"learn": None, "forget": {"tasks": [0], "classes": None}, "data": False},
            {"learn": 2},
        ],
        [{"learn": 0}, {"learn": 1}, {"forget": {"classes": [1, 0]}}, {"learn": 2}],
        [{"learn": 0}, {"learn": 1}, {"forget": {"uids": [3, 2, 1, 0]}}, {"learn": 2}],
    ],
)
def test_a_whole_experience_is_forgotten_whichever_way_it_is_named(
    stream: Stream, requests: Any
) -> None:
    spliced = splice(stream, requests)
    assert shape(spliced) == [("l", 0, 0), ("l", 1, 1), ("f", 2, 0), ("l", 3, 2)]
    forget = spliced.experiences[2]
    assert forget.forgets == (0,) and forget.uids == (0, 1, 2, 3)
    assert forget.tasks == (0,) and forget.classes == (0, 1)
    assert not len(forget.train) and not len(forget.eval)
    assert forget.train.x.shape == (0, 1)
    assert spliced.learned == tuple(e for e in spliced if e.kind == "learn")
    assert spliced.describe()["experiences"][2]["forgets"] == [0]


def test_forgets_are_positions_in_the_stream(stream: Stream) -> None:
    spliced = splice(stream, "L2 L0 F0 L1 F2 F1")
    assert [e.forgets for e in spliced if e.kind == "forget"] == [(1,), (0,), (3,)]
    assert [e.origin for e in spliced if e.kind == "forget"] == [0, 2, 1]


def test_data_is_there_only_when_the_request_says_so(stream: Stream) -> None:
    forget = splice(
        stream, ["L0", "L1", {"forget": {"classes": [1, 2]}, "data": True}]
    ).experiences[2]
    assert forget.train.uid.tolist() == [1, 3, 4, 6] == list(forget.uids)
    assert forget.train.x.flatten().tolist() == [1, 3, 4, 6]
    assert forget.train.y.tolist() == [1, 1, 2, 2] and forget.tasks == (0, 1)
    assert forget.forgets == ()


def test_what_is_forgotten_bit_by_bit_is_forgotten_in_the_end(stream: Stream) -> None:
    first, second, third = [
        e
        for e in splice(
            stream,
            [
                "L0",
                "L1",
                {"forget": {"classes": [0]}},
                {"forget": {"uids": [1]}},
                {"forget": {"tasks": [0, 1]}, "data": True},
            ],
        )
        if e.kind == "forget"
    ]
    assert (first.forgets, first.uids) == ((), (0, 2))
    assert (second.forgets, second.uids) == ((), (1,))
    assert (third.forgets, third.uids) == ((0, 1), (3, 4, 5, 6, 7))
    assert third.train.uid.tolist() == [3, 4, 5, 6, 7]


@pytest.fixture
def returning() -> Stream:
    """Classes 0, 1 | 1, 2 | 0, 2 with uids 0-3 of class 0, 4-7 of class 1, 8-11 of class 2.

    Of class 1 half comes each time, uid 5 with both halves.
    """
    uids = [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 8, 9, 10, 11]]

    def part(uids: list[int], plus: int = 0) -> Samples:
        uid = torch.tensor(uids)
        return Samples((uid + plus).float()[:, None], uid // 4, torch.zeros_like(uid), uid + plus)

    exps = tuple(
        Experience(
            e, "learn", (0,), tuple(sorted({u // 4 for u in of})), part(of), part(of, 100), origin=e
        )
        for e, of in enumerate(uids)
    )
    return Stream("toy", exps, 3, "class", (0, 1, 2))


@pytest.mark.parametrize(
    ("order", "what", "uids", "forgets"),
    [
        ("L0 L1 L2", {"classes": [0]}, [0, 1, 2, 3], ()),
        ("L0 L1 L2", {"classes": [1]}, [4, 5, 6, 7], ()),
        ("L0 L1 L2", {"classes": [0, 1]}, [*range(8)], (0,)),
        ("L0 L1 L2", {"classes": [0, 2]}, [0, 1, 2, 3, 8, 9, 10, 11], (2,)),
        ("L0 L1 L2", {"tasks": [2]}, [0, 1, 2, 3, 8, 9, 10, 11], (2,)),
        ("L2 L0 L1", {"tasks": [0]}, [0, 1, 2, 3, 4, 5], (1,)),
        ("L0 L1 L2", {"tasks": [0, 2]}, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11], (0, 2)),
        ("L0 L1", {"uids": [5]}, [5], ()),
    ],
)
def test_what_came_several_times_is_withdrawn_everywhere(
    returning: Stream, order: str, what: dict[str, list[int]], uids: list[int], forgets: Any
) -> None:
    spliced = splice(returning, [*order.split(), {"forget": what, "data": True}])
    forget = spliced.experiences[-1]
    assert sorted(forget.uids) == uids == sorted(forget.train.uid.tolist())
    assert forget.train.x.flatten().tolist() == list(forget.uids)
    assert forget.forgets == forgets
    for i in spliced.learned:
        left = set(i.train.uid.tolist()) - set(forget.uids)
        assert bool(left) == (i.index not in forgets)


def test_a_request_is_called_after_what_it_touches_as_in_its_audit(
    stream: Stream, returning: Stream
) -> None:
    forget = [{"forget": what} for what in ({"classes": [1, 2]}, {"uids": [0, 9]}, {"tasks": [2]})]
    for whole, order, expected in (
        (
            stream,
            ["L0", "L1", forget[0], "L2", forget[1], forget[2]],
            ["U0,1 part", "U0,2 part", "U2"],
        ),
        (returning, ["L0", "L1", "L2", forget[2]], ["U2"]),
        (returning, ["L0", "L1", forget[0], "L2", forget[1]], ["U0,1 part", "U2 part"]),
    ):
        spliced = splice(whole, order)
        called = {i: name for i, name in names(spliced.order()).items() if name[0] == "U"}
        assert list(called.values()) == expected
        audited = {f.position: f.name for f in gather(spliced, 100).forgotten}
        assert {i: called[i] for i in audited} == audited


def test_of_a_task_it_is_called_as_it_was_written(returning: Stream) -> None:
    """Uid 5 came with experience 1 once more."""
    spliced = splice(returning, "L2 L0 L1 U0")
    assert list(names(spliced.order()).values()) == ["L2", "L0", "L1", "U0"]


def test_a_class_that_was_forgotten_may_come_and_be_forgotten_again(returning: Stream) -> None:
    forget = {"forget": {"classes": [0]}}
    spliced = splice(returning, ["L0", forget, "L1", "L2", forget])
    assert [e.uids for e in spliced if e.kind == "forget"] == [(0, 1, 2, 3)] * 2
    assert spliced.experiences[3].train is returning.experiences[2].train
    with pytest.raises(ConfigError, match=r"classes 0: forgotten before.*there: 1, 2"):
        splice(returning, ["L0", "L1", forget, forget])
    with pytest.raises(ConfigError, match=r"uids 5: forgotten before"):
        splice(returning, ["L0", "L1", {"forget": {"tasks": [0]}}, {"forget": {"uids": [5]}}])


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ("L3", ["experience 3", "has 0, 1, 2", "Did you mean 2?"]),
        ("L0 L0", ["experience 0 was learned before", "Still to learn: 1, 2"]),
        ("L0 L1 L2 L1", ["All have been learned"]),
        ("F0", ["tasks 0: not learned by then", "Learn first"]),
        ("L0 F1 L1", ["requests[1]", "tasks 1: not learned by then", "Did you mean 0?"]),
        ("L0 L1 F0 F0", ["tasks 0: forgotten before", "Did you mean 1?"]),
        (["L0", {"forget": {"classes": [5]}}], ["classes 5: not learned", "there: 0, 1", "1?"]),
        (["L0", {"forget": {"uids": [0, 9, 99]}}], ["uids 9: not learned", "uids 99: nowhere"]),
    ],
)  # fmt: skip
def test_a_wrong_request_is_answered_with_what_would_work(
    stream: Stream, requests: Any, says: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        splice(stream, requests)
    assert all(part in str(error.value) for part in says), str(error.value)
    assert "request" in str(error.value)


def test_classes_of_which_nothing_is_left_are_named(stream: Stream, returning: Stream) -> None:
    requests: list[Any] = ["L0", {"forget": {"uids": [0, 1]}}, {"forget": {"uids": [2]}}]
    assert [e.emptied for e in splice(stream, requests)] == [(), (), (0,)]
    (*_, last) = splice(returning, ["L0", "L1", "L2", {"forget": {"tasks": [0]}}])
    held = {
        c
        for e in returning
        for c, u in zip(e.train.y.tolist(), e.train.uid.tolist(), strict=True)
        if u not in last.uids
    }
    every = [u for e in returning.experiences[:3] for u in e.train.uid.tolist()]
    assert last.times == tuple(every.count(u) for u in last.uids) and max(last.times) > 1
    assert set(last.emptied) == set(last.classes) - held


def test_what_was_forgotten_may_be_learned_again(stream: Stream) -> None:
    spliced = splice(stream, "L0 L1 U0 L0 U0 L2")
    assert shape(spliced)[3:5] == [("l", 3, 0), ("f", 4, 0)]
    assert [e.forgets for e in spliced if e.kind == "forget"] == [(0,), (3,)]
    assert spliced.experiences[3].train is stream.experiences[0].train
    with pytest.raises(ConfigError, match="experience 0 was learned before"):
        splice(stream, ["L0", {"forget": {"uids": [0]}}, "L0"])


def test_samples_may_be_left_out_of_what_is_learned(stream: Stream) -> None:
    without = [{"classes": [1]}, {"uids": [2]}]
    first, second = splice(stream, [{"learn": 0, "without": without}, "L1"])
    assert first.train.uid.tolist() == [0] and first.classes == (0,)
    assert first.eval is stream.experiences[0].eval
    assert second.train is stream.experiences[1].train
    spliced = splice(stream, [{"learn": 0, "without": [{"tasks": [0]}]}, "L1"])
    assert shape(spliced) == [("l", 0, 1)]
    with pytest.raises(ConfigError, match="without anything"):
        splice(stream, [{"learn": 0, "without": [{"tasks": [0]}]}])


# arXiv 2509.17530, as its specification has them: ten tasks, five data sets, Tiny-ImageNet's twenty
PUBLISHED = {
    "uncle_ten_a": "L1 L0 U1 L5 L8 L9 L7 U0 L2 L3 L4 U8 U3 U5 L6",
    "uncle_ten_b": "L6 L7 L2 L1 L0 U1 L9 U7 U2 U0 L4 U4 L8 U6 L5",
    "uncle_ten_c": "L7 L1 L2 L8 L0 U1 L3 L6 U3 U2 L4 L5 U8 L9 U7",
    "uncle_five_a": "L0 L1 U0 L2 L3 L4 U1",
    "uncle_five_b": "L3 L4 L2 L0 L1 U3 U0",
    "uncle_five_c": "L0 L2 U0 L4 L3 U2 U4",
    "uncle_tiny_a": "L3 L0 U3 L9 L5 L17 L1 L7 L14 L15 L19 U17 U7 L6 U15 U9 L12 L4 U5 U4 U6 U0 U1"
    " U14 U12 L13 L18 L2 L11 L8",
    "uncle_tiny_b": "L12 L13 L5 L8 L2 U8 L14 U13 U5 U2 L3 U3 L16 U12 L11 U16 L7 L15 L10 L19 L9 U14"
    " U7 L18 L6 L1 L0 L4 U6 L17",
    "uncle_tiny_c": "L2 L7 U2 L18 L12 U7 U18 L16 L0 U16 U0 L13 L4 U12 U13 L9 L19 U19 U4 L10 L14 L5"
    " U5 U10 L11 L1 U1 L17 L6 L3",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sequences_can_be_followed(stream: Stream, name: str) -> None:
    many = tuple(
        replace(stream.experiences[0], index=i, origin=i, train=samples([0], 0, i))
        for i in range(20)
    )
    spliced = splice(replace(stream, experiences=many), name)
    words = [("L" if e.kind == "learn" else "U") + str(e.origin) for e in spliced]
    assert words == PUBLISHED[name].split()
    place = {e.index: e.origin for e in spliced}
    assert all([place[i] for i in e.forgets] == [e.origin] for e in spliced if e.kind == "forget")


def test_every_sequence_of_that_name_is_a_published_one() -> None:
    lines = Path("conf/requests.yaml").read_text().splitlines()
    assert {line.split(":")[0] for line in lines if line.startswith("uncle")} == PUBLISHED.keys()


def test_a_file_of_uids(stream: Stream, tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"
    file.write_text("# uid, why\n2, asked\n\n1\n")
    forget = splice(stream, ["L0", {"forget": {"file": str(file)}}]).experiences[1]
    assert forget.uids == (1, 2)
    file.write_text("2\ntwo\n")
    with pytest.raises(ValueError, match="line 2: 'two' is no uid"):
        splice(stream, ["L0", {"forget": {"file": str(file)}}])


@pytest.mark.parametrize(
    ("requests", "retrained"),
    [
        ("L0 L1 U0 L2", [{"learn": 1, "without": [{"tasks": [0]}]}, "L2"]),
        ("L0 L1 U0 L0 L2", [{"learn": 1, "without": [{"tasks": [0]}]}, "L0", "L2"]),
        ("L0 L1 L2", "L0 L1 L2"),
        (
            ["L0", {"forget": {"uids": [3, 1]}}, "L1", {"forget": {"classes": [2]}}],
            [
                {"learn": 0, "without": [{"uids": [1, 3]}, {"classes": [2]}]},
                {"learn": 1, "without": [{"classes": [2]}]},
            ],
        ),
    ],
)
def test_the_stream_as_if_the_forgotten_had_never_been_there(
    stream: Stream, requests: Any, retrained: Any
) -> None:
    given = read_requests(requests)
    assert given is not None
    assert never_learned(given) == read_requests(retrained)
    learned = list(dict.fromkeys(r.learn for r in given if not r.forget))
    assert [r.learn for r in never_forgotten(given)] == learned
    gone = {u for e in splice(stream, requests) if e.kind == "forget" for u in e.uids}
    left = {
        u for e in spliced_stream.splice(stream, never_learned(given)) for u in e.train.uid.tolist()
    }
    if requests != "L0 L1 U0 L0 L2":  # there it came again
        assert not left & gone
    with pytest.raises(ClframeError, match="forget everything"):
        never_learned(read_requests("L0 U0") or [])


def test_what_is_forgotten_is_left_out_of_every_experience_that_it_comes_with(
    returning: Stream,
) -> None:
    given = read_requests("L0 L1 L2 U0") or []
    gone = set(splice(returning, "L0 L1 L2 U0").experiences[3].uids)
    without = spliced_stream.splice(returning, never_learned(given))
    assert [e.origin for e in without] == [1, 2]
    assert not gone & {u for e in without for u in e.train.uid.tolist()}
