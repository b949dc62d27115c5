"""What models are asked about: exactly what was taken, and what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from clframe.audit.evidence import Part, gather
from clframe.config.requests import never_learned, read_requests
from clframe.core.experience import Experience, Samples, Stream
from clframe.data.stream import splice


def samples(y: Sequence[int], first: int, task: int = 0) -> Samples:
    n = len(y)
    uid = torch.arange(first, first + n)
    return Samples(uid.float()[:, None], torch.tensor(y), torch.full((n,), task), uid)


def stream_of(setting: str = "class") -> Stream:
    """Three experiences of two classes; training uids 0-3, 4-7, 8-11, test uids 100, 101, ..."""
    exps = tuple(
        Experience(
            e, "learn", (e,), (2 * e, 2 * e + 1),
            samples([2 * e, 2 * e + 1] * 2, 4 * e), samples([2 * e, 2 * e + 1], 100 + 2 * e),
            origin=e,
        )
        for e in range(3)
    )  # fmt: skip
    return Stream("toy", exps, 6, setting, tuple(range(6)))  # type: ignore[arg-type]


def asked(requests: Any, setting: str = "class", limit: int = 99) -> Any:
    return gather(splice(stream_of(setting), read_requests(requests)), limit)


def uids(parts: Sequence[Part]) -> list[int]:
    return sorted(u for p in parts for u in p.samples.uid.tolist())


def test_evidence_of_a_whole_task() -> None:
    found = asked("L0 L1 U0 L2")
    (lost,) = found.forgotten
    assert (lost.position, lost.name) == (2, "U0")
    assert uids(found.forget_train) == [0, 1, 2, 3] and uids(found.forget_test) == [100, 101]
    assert uids(found.retain_train) == [*range(4, 12)]
    assert uids(found.retain_test) == [102, 103, 104, 105]
    assert found.emptied == (0, 1) and not found.by_task
    assert {p.classes for p in (*found.forget_test, *found.retain_test)} == {tuple(range(6))}
    assert [p.origin for p in found.retain_train] == [1, 2]
    assert [e.train.uid.tolist() for e in lost.exps] == [[0, 1, 2, 3]]
    assert uids(lost.held_train) == [4, 5, 6, 7] and uids(lost.held_test) == [102, 103]


def test_evidence_of_tasks_with_outputs_of_their_own() -> None:
    found = asked("L0 L1 U0 L2", "task")
    assert found.by_task
    assert [p.classes for p in found.forget_test] == [(0, 1)]
    assert [p.classes for p in found.retain_test] == [(2, 3), (4, 5)]


def test_evidence_of_a_class() -> None:
    found = asked(["L0", "L1", {"forget": {"classes": [1]}}, "L2"])
    assert found.forgotten[0].name == "U0 part" and found.emptied == (1,)
    assert uids(found.forget_train) == [1, 3] and uids(found.forget_test) == [101]
    assert uids(found.retain_train) == [0, 2, *range(4, 12)]
    assert uids(found.retain_test) == [100, 102, 103, 104, 105]


def test_evidence_of_single_samples() -> None:
    found = asked(["L0", "L1", {"forget": {"uids": [1, 6]}}, "L2"])
    assert found.forgotten[0].name == "U0,1 part" and found.emptied == ()
    assert uids(found.forget_train) == [1, 6]
    assert uids(found.retain_train) == [u for u in range(12) if u not in (1, 6)]
    tests = uids(found.forget_test), uids(found.retain_test)
    assert sorted([*tests[0], *tests[1]]) == [*range(100, 106)], "none of them in both"
    assert [len(p.samples) for p in found.forget_test] == [1, 1] and {104, 105} <= set(tests[1])
    (lost,) = found.forgotten
    assert uids(lost.held_train) == [0, 2, 3, 4, 5, 7], "experiences touched are held all the same"
    assert not set(uids(lost.held_test)) & set(tests[0])


def test_a_class_forgotten_sample_by_sample_is_not_held() -> None:
    found = asked(["L0", {"forget": {"uids": [1]}}, {"forget": {"uids": [3]}}, "L1"])
    assert found.emptied == (1,)
    assert [uids(f.train) for f in found.forgotten] == [[1], [3]]
    assert uids(found.forget_test) == [100, 101] and uids(found.retain_test) == [102, 103]


def test_classes_forgotten_one_by_one_are_tested_on_one_by_one() -> None:
    requests = ["L0", "L1", {"forget": {"classes": [0]}}, {"forget": {"classes": [1]}}]
    first, second = asked(requests).forgotten
    assert (uids(first.test), uids(second.test)) == ([100], [101])
    assert uids(asked(requests).forget_test) == [100, 101]
    assert uids(second.held_test) == [102, 103] and uids(first.held_test) == [101, 102, 103]


def test_what_was_learned_again_is_held() -> None:
    found = asked("L0 L1 U0 L0 U1")
    assert [f.name for f in found.forgotten] == ["U1"]
    assert uids(found.retain_train) == [0, 1, 2, 3] and uids(found.retain_test) == [100, 101]
    assert found.emptied == (2, 3)


def test_what_is_learned_again_in_part_is_forgotten_in_part() -> None:
    requests = ["L0", "L1", "U0", {"learn": 0, "without": [{"uids": [2]}]}]
    found = asked(requests)
    assert uids(found.forget_train) == [2] and uids(found.retain_train) == [0, 1, 3, 4, 5, 6, 7]


def test_the_retrained_model_saw_nothing_that_was_withdrawn() -> None:
    """Of experiences 0 and 1 the second has sample 3 as well; forgetting 0 withdraws it there."""
    plain = stream_of()
    first, second, third = plain.experiences
    both = Samples.cat([Samples(*first.train.take(torch.tensor([3]))), second.train])
    shared = replace(plain, experiences=(first, replace(second, train=both), third))
    given = read_requests("L0 L1 U0 L2")
    assert given is not None
    gone = {u for e in splice(shared, given) if e.kind == "forget" for u in e.uids}
    learned = splice(shared, never_learned(given))
    assert gone == {0, 1, 2, 3}
    assert not gone & {u for e in learned for u in e.train.uid.tolist()}


def test_what_was_forgotten_twice_is_asked_about_once() -> None:
    found = asked("L0 L1 U0 L0 U0")
    assert uids(found.forget_train) == [0, 1, 2, 3] and uids(found.forget_test) == [100, 101]


def test_a_limit_takes_the_same_samples_of_every_seed_and_method() -> None:
    found, again = asked("L0 L1 U0 L2", limit=2), asked("L0 L1 L2 U0", limit=2)
    assert [len(p.samples) for p in found.retain_train] == [2, 2]
    assert {p.origin: uids([p]) for p in found.retain_train} == {
        p.origin: uids([p]) for p in again.retain_train
    }
    assert uids(found.forget_train) == uids(again.forget_train)
    assert sorted(found.forget_train[0].samples.y.tolist()) == [0, 1], "of each class as many"
