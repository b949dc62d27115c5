"""Runs over streams whose classes come back: every strategy, resuming, masks, forgetting."""

from __future__ import annotations

import pytest

import clframe
from clframe.config.identity import from_yaml
from clframe.engine.run import run_cell
from clframe.engine.session import Run
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell
from tests.unit.engine.test_resume import STRATEGIES, Stop, assert_equal_runs, stop_at

BLURRY = ("scenario=blurry_digits", "options.blurry_digits.train_limit=16")
CLASSES = [(0, 1, 2), (2, 3, 4), (1, 5, 6), (2, 7, 8), (3, 5, 6), (0, 3, 5), (0, 3, 9)]  # seed 0
FORGET = (
    "requests=[{learn: 0}, {learn: 1}, {learn: 2}, {forget: {classes: [2]}, data: true}, "
    "{learn: 3}, {learn: 4}]"
)


def spied(store: RunStore) -> Run:
    return Run(from_yaml(store.config_path), store, True)


def test_the_stream_is_what_these_tests_take_it_for(make_cell: MakeCell) -> None:
    run = spied(make_cell("strategy=fine_tune", *BLURRY))
    assert [e.classes for e in run.stream] == CLASSES


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "uncle"])  # no task returns
def test_every_strategy_gets_through(make_cell: MakeCell, strategy: str) -> None:
    store = make_cell(f"strategy={strategy}", "net.growing=true", *BLURRY)
    assert run_cell(store.folder) == 0
    metrics = store.read_metrics()
    assert metrics["n_experiences"] == 7 and metrics["acc_final"] > 0


@pytest.mark.parametrize("strategy", ["replay", "joint"])
def test_stopped_and_resumed_equals_uninterrupted(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    words = (f"strategy={strategy}", "checkpoint=2", *BLURRY, FORGET)
    whole = make_cell(*words, name="whole")
    assert run_cell(whole.folder) == 0
    parts = make_cell(*words, name="parts")
    for iteration in (5, 16, 27):
        with monkeypatch.context() as patch:
            stop_at(patch, iteration)
            with pytest.raises(Stop):
                run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)


def test_the_memory_drops_a_class_in_all_its_experiences(make_cell: MakeCell) -> None:
    run = spied(make_cell("strategy=replay", *BLURRY, FORGET))
    memory, forget = run.strategy.memory, run.strategy.forget
    rows: list[list[tuple[int, int]]] = []

    def look(exp):  # type: ignore[no-untyped-def]
        for act in (lambda: None, lambda: forget(exp)):
            act()
            columns = (memory.column(c).tolist() for c in ("y", "uid"))
            rows.append(list(zip(*columns, strict=True)))

    run.strategy.forget = look  # type: ignore[method-assign]
    run.all()
    before, after = rows
    came = [u for y, u in before if y == 2]
    assert len(came) == 2 * len(set(came)) == 32, "each of its samples was offered twice"
    assert after == [row for row in before if row[0] != 2]
    request = run.stream.experiences[3]
    assert set(request.uids) == set(came) and len(request.uids) == len(request.train) == 16
    assert request.forgets == () and request.classes == (2,)


def test_joint_trains_on_what_is_left_once_and_on_what_comes_again(make_cell: MakeCell) -> None:
    run = spied(make_cell("strategy=joint", *BLURRY, FORGET))
    run.all()
    stream = run.stream.experiences
    last = run.strategy.data(stream[4], run.feed._past(stream[4]))
    counts = last.y.bincount(minlength=10).tolist()
    assert counts == [16] * 9 + [0], "class 2 comes again with the last one"
    assert len(last.uid.unique()) == len(last)
    without = run.strategy.data(stream[5], run.feed._past(stream[5])[:3])
    assert without.y.bincount(minlength=10).tolist() == [16, 16, 0, 16, 16, 16, 16, 0, 0, 0]


def test_forgetting_all_of_an_experience_takes_it_out_of_the_metrics(make_cell: MakeCell) -> None:
    words = (
        "requests=[{learn: 0}, {learn: 1}, {learn: 4}, {forget: {classes: [3, 4, 2]}}, "
        "{forget: {classes: [5, 6]}}]"
    )
    store = make_cell("strategy=replay", *BLURRY, words)
    assert run_cell(store.folder) == 0
    made = store.read_record().data["experiences"]
    assert [e["forgets"] for e in made if e["kind"] == "forget"] == [[1], [2]]
    assert store.read_metrics()["n_experiences"] == 1


@pytest.mark.parametrize("growing", ["true", "false"])
def test_experiences_to_come_are_asked_for_once_their_classes_are_known(
    make_cell: MakeCell, growing: str
) -> None:
    store = make_cell("strategy=fine_tune", f"net.growing={growing}", *BLURRY)
    assert run_cell(store.folder) == 0
    found: dict[int, set[int]] = {}
    for row in store.read_boundary("net/seen").to_pylist():
        if row["iteration"]:
            found.setdefault(row["train_experience"], set()).add(row["eval_experience"])
    for k, evaluated in found.items():
        met = {c for classes in CLASSES[: k + 1] for c in classes}
        known = {i for i, classes in enumerate(CLASSES) if set(classes) <= met}
        assert evaluated == known
    assert clframe.load_run(store.folder) is not None
