"""A run that is told to forget: what it hands over, what it calls, what it draws, what it keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import clframe
from clframe.config.identity import from_yaml
from clframe.config.load import load_run
from clframe.core.experience import Batch, Experience, Samples
from clframe.core.rng import generator, shared_rng
from clframe.core.strategy import Strategy
from clframe.data.loader import ForgetLoader
from clframe.engine import resume
from clframe.engine.build import make_stream
from clframe.engine.run import run_cell
from clframe.engine.session import Run
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell, small_words
from tests.unit.engine.test_resume import Stop, assert_equal_runs, stop_at

LEARNED = 14  # updates of the first two experiences: 8 and 6 batches of 8
STEPS = 20  # of a request to forget the first, whose data is 8 batches: two epochs and a half
HOOKS = ("before_step", "loss", "forget_loss", "after_backward", "after_step", "after_batch")


class Spy(Strategy):
    """Fine-tuning that writes down what it is called with; a request has `STEPS` steps."""

    def __init__(self, *, steps: int = STEPS, repeats: int = 1) -> None:
        super().__init__()
        self.steps, self.repeats = steps, repeats
        self.at: Experience | None = None
        self.calls: list[tuple[int, str]] = []
        self.batches: list[tuple[int, list[int], list[float]]] = []
        self.offered: dict[int, dict[int, list[int]]] = {}

    def budget(self, exp: Experience) -> int | None:
        return self.steps or None if exp.kind == "forget" else None

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        self.offered[exp.index] = {e.index: e.train.uid.tolist() for e in past}
        return None

    def begin(self, exp: Experience) -> None:
        self.at = exp

    def forget(self, exp: Experience) -> bool | None:
        self.at = exp
        return None

    def note(self, hook: str, batch: Batch | None = None) -> None:
        assert self.at is not None
        self.calls.append((self.at.index, hook))
        if batch is not None and hook in ("loss", "forget_loss"):
            drawn = [*torch.rand(3).tolist(), *torch.rand(3, generator=shared_rng("spy")).tolist()]
            self.batches.append((self.at.index, batch.uid.tolist(), drawn))

    def before_step(self, batch: Batch) -> None:
        self.note("before_step", batch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.note("loss", batch)
        return super().loss(batch)

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        self.note("forget_loss", batch)
        return {"shrink": self.net.get_parameter("head.weight").square().mean()}

    def after_backward(self) -> None:
        self.note("after_backward")

    def after_step(self, batch: Batch) -> None:
        self.note("after_step", batch)

    def after_batch(self, batch: Batch) -> None:
        self.note("after_batch", batch)


class Fresh(Spy):
    """Each experience is learned from weights of its own, so that forgetting one is exact."""

    def begin(self, exp: Experience) -> None:
        super().begin(exp)
        with torch.no_grad():
            for i, p in enumerate(self.net.parameters()):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator(0, "w", exp.origin, i)))


def ran(store: RunStore) -> Run:
    run = Run(from_yaml(store.config_path), store, True)
    run.all()
    return run


@pytest.fixture
def spied(make_cell: MakeCell) -> Callable[..., Run]:
    """`spied("requests=...", kind="Fresh")`: a finished run of a spying strategy."""
    number = iter(range(100))

    def make(*words: str, kind: str = "Spy") -> Run:
        strategy = f"strategy=tests.unit.engine.test_forgetting:{kind}"
        return ran(make_cell(strategy, *words, name=f"spied{next(number)}"))

    return make


def batches_of(run: Run, position: int) -> list[list[int]]:
    return [uids for index, uids, _ in run.strategy.batches if index == position]


def joined(found: list[list[int]]) -> list[int]:
    return [uid for batch in found for uid in batch]


# -- batches ---------------------------------------------------------------------------------


def samples(n: int) -> Samples:
    y = torch.zeros(n, dtype=torch.long)
    return Samples(torch.zeros(n, 1), y, y, torch.arange(100, 100 + n))


def batches(n: int, steps: int, size: int = 4, batch: int = 0) -> list[list[int]]:
    loader = ForgetLoader(samples(n), size, steps, seed=3, key=1, batch=batch)
    return [rows.uid.tolist() for block in loader for rows in block]


@pytest.mark.parametrize(
    ("n", "sizes"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 5]), (3, [3]), (1, [1])]
)
def test_an_epoch_of_a_request_is_all_its_data_in_a_new_order(n: int, sizes: list[int]) -> None:
    found = batches(n, steps=3 * len(sizes) + 1)
    assert [len(b) for b in found] == sizes * 3 + sizes[:1]
    epochs = [joined(found[i : i + len(sizes)]) for i in range(0, 3 * len(sizes), len(sizes))]
    assert all(sorted(epoch) == list(range(100, 100 + n)) for epoch in epochs)
    assert n < 8 or epochs[0] != epochs[1] != epochs[2]
    loader = ForgetLoader(samples(n), 4, len(found), seed=3, key=1)
    assert [loader.rows(i) for i in range(len(found))] == [len(b) for b in found]


@pytest.mark.parametrize("n", [10, 9, 1])
def test_a_request_goes_on_from_any_batch(n: int) -> None:
    whole = batches(n, steps=11)
    assert all(batches(n, steps=11, batch=k) == whole[k:] for k in range(12))


def test_without_data_batches_are_empty(spied: Callable[..., Run]) -> None:
    assert batches(0, steps=3) == [[], [], []]
    run = spied("requests=L0 L1 U0 L2")
    assert batches_of(run, 2) == [[]] * STEPS
    assert run.spent[2]["samples"] == 0 and run.spent[2]["updates"] == STEPS


def test_a_run_hands_over_the_data_of_the_request_epoch_after_epoch(
    spied: Callable[..., Run],
) -> None:
    run = spied("requests=L0 L1 U0 L2", "forget_data=true", "options.Spy.steps=70")
    own = sorted(run.stream.experiences[0].train.uid.tolist())
    found = batches_of(run, 2)
    assert [len(b) for b in found] == [8] * 70, "also where there are more than a block"
    epochs = [joined(found[i : i + 8]) for i in range(0, 64, 8)]
    assert all(sorted(epoch) == own for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert run.position.past_samples == 0, "what is handed over is no past data"


# -- resuming --------------------------------------------------------------------------------

TOLD = {
    "ascent+replay": ("options.ascent.steps=20",),
    "relabel+replay": ("options.relabel.steps=20",),
    "retain+replay": ("options.retain.steps=20",),
    "uncle": ("options.uncle={widths: [8, 8], chunks: 4, burn_in_start: 20}",),
}


@pytest.mark.parametrize("strategy", TOLD)
def test_killed_inside_a_request_and_resumed(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    words = (
        *(f"strategy={strategy}", "requests=L0 L1 U0 L2 U1", "forget_data=true", "checkpoint=3"),
        *("optim.momentum=0.9", "optim.schedule=cosine", *TOLD[strategy]),
    )
    whole = make_cell(*words, name="whole")
    assert run_cell(whole.folder) == 0, whole.read_record().error
    parts = make_cell(*words, name="parts")
    # within the first epoch of the data, within the second, at the last step, in the next request
    for stop in (LEARNED + 5, LEARNED + 11, LEARNED + STEPS, LEARNED + STEPS + 6 + 8):
        with monkeypatch.context() as patch:
            stop_at(patch, stop)
            with pytest.raises(Stop):
                run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert parts.read_record().attempts == 5
    assert_equal_runs(whole, parts)
    one, other = (s.read_record() for s in (whole, parts))
    assert one.cost == other.cost and one.iteration == other.iteration
    for a, b in zip(one.spent, other.spent, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_an_optimizer_of_the_strategys_own_begins_anew_in_each_experience(
    make_cell: MakeCell,
) -> None:
    words = ("strategy=uncle", "optim.reset=never", *TOLD["uncle"])
    store = make_cell(*words, "requests=L0 L1 U0 L2")
    assert run_cell(store.folder) == 0, store.read_record().error


# -- what a strategy is given and called -----------------------------------------------------


def test_past_data_never_has_what_was_withdrawn(spied: Callable[..., Run]) -> None:
    run = spied(
        "requests=[L0, L1, {forget: {classes: [5]}}, U0, L2, U1, L0, U2]", "options.Spy.steps=1"
    )
    exps, offered = run.stream.experiences, run.strategy.offered
    uid = {e.index: e.train.uid.tolist() for e in exps if e.kind == "learn"}
    left = [u for u, y in zip(uid[1], exps[1].train.y.tolist(), strict=True) if y != 5]
    assert len(left) == 32
    assert offered == {
        0: {},
        1: {0: uid[0]},
        2: {0: uid[0], 1: left},  # the request's own are gone by then
        3: {0: [], 1: left},
        4: {0: [], 1: left},
        5: {0: [], 1: [], 4: uid[4]},
        6: {0: [], 1: [], 4: uid[4]},
        7: {0: [], 1: [], 4: [], 6: uid[0]},  # which came again after its request
    }


def test_a_request_calls_what_it_should_and_nothing_else(spied: Callable[..., Run]) -> None:
    run = spied("requests=L0 L1 U0 L2", "forget_data=true", "options.Spy.repeats=3")
    calls = run.strategy.calls

    def count(position: int) -> dict[str, int]:
        return {h: n for h in HOOKS if (n := calls.count((position, h)))}

    assert count(2) == {"forget_loss": STEPS, "after_backward": STEPS}
    per_step = dict.fromkeys(("before_step", "loss", "after_backward", "after_step"), 18)
    assert count(3) == {**per_step, "after_batch": 6}
    assert run.strategy.calls[-4:] == [(3, "loss"), (3, "after_backward"), *calls[-2:]]
    assert [row["updates"] for row in run.spent] == [24, 18, STEPS, 18]


# -- what is drawn ---------------------------------------------------------------------------


def test_a_request_and_what_it_takes_back_leave_no_trace_in_what_is_drawn(
    spied: Callable[..., Run],
) -> None:
    plain = spied("requests=L0 L2", "forget_data=true", kind="Fresh")
    asked = spied("requests=L0 L1 U1 L2", "forget_data=true", kind="Fresh")
    here, there = (
        [(uids, drawn) for i, uids, drawn in run.strategy.batches if i == position]
        for run, position in ((plain, 1), (asked, 3))
    )
    assert len(here) == 6 and here == there, "batches, torch's draws and shared draws"
    assert asked.position.iteration == plain.position.iteration + 6 + STEPS
    weights, others = plain.strategy.net.state_dict(), asked.strategy.net.state_dict()
    assert all(torch.equal(v, others[k]) for k, v in weights.items())
    drawn = [tuple(d) for run in (plain, asked) for *_, d in run.strategy.batches]
    # the two runs share experiences 0 and 2; all else is drawn anew
    assert len(set(drawn)) == len(asked.strategy.batches)


def test_learning_again_meets_what_the_first_time_did(spied: Callable[..., Run]) -> None:
    run = spied("requests=L0 L1 U0 L0", "forget_data=true")
    first, again = (
        [(uids, drawn) for i, uids, drawn in run.strategy.batches if i == position]
        for position in (0, 3)
    )
    assert len(first) == 8 and first == again


# -- what is kept ----------------------------------------------------------------------------

ASCENT = ("strategy=ascent+replay", "options.ascent.steps=6", "forget_data=true", "checkpoint=2")


def equal(a: Any, b: Any) -> bool:
    """Whether two parts of checkpoints are the same, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_copies_are_the_state_before_each_request(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = "requests=L0 L1 U0 L2 U1"
    store = make_cell(*ASCENT, requests, "copies=true", name="whole")
    with monkeypatch.context() as patch:  # a resumed request does not copy itself over it
        stop_at(patch, LEARNED + 4)
        with pytest.raises(Stop):
            run_cell(store.folder)
    assert run_cell(store.folder) == 0
    assert {p.name for p in store.folder.glob("before*")} == {"before-2.ckpt", "before-4.ckpt"}
    x = torch.rand(7, 1, 8, 8)
    outputs = []
    for position, told in ((2, "L0 L1"), (4, "L0 L1 U0 L2")):
        upto = make_cell(*ASCENT, f"requests={told}", name=f"upto{position}")
        assert run_cell(upto.folder) == 0
        kept, last = (
            resume.load(p)["strategy"] for p in (store.before_path(position), upto.checkpoint_path)
        )
        assert equal(kept, last)
        found = clframe.load_run(store.folder, f"before-{position}.ckpt")
        with torch.no_grad():
            outputs.append(found.predict(x, None))
            assert torch.equal(outputs[-1], clframe.load_run(upto.folder).predict(x, None))
    assert not torch.equal(*outputs)


def test_without_copies_nothing_is_kept(make_cell: MakeCell) -> None:
    store = make_cell(*ASCENT, "requests=L0 U0 L1")
    assert run_cell(store.folder) == 0
    assert not list(store.folder.glob("before*"))


def test_what_was_spent_is_told_of_each_position(make_cell: MakeCell) -> None:
    store = make_cell(*ASCENT, "requests=L0 L1 U0 L2")
    assert run_cell(store.folder) == 0
    record = store.read_record()
    assert [row["index"] for row in record.spent] == [0, 1, 2, 3]
    assert [row["updates"] for row in record.spent] == [8, 6, 6, 6]
    assert [row["samples"] for row in record.spent] == [64, 48, 48, 48]
    assert sum(row["updates"] for row in record.spent) == record.iteration
    assert sum(row["samples"] for row in record.spent) == record.cost["samples"]
    seconds = [row["seconds"] for row in record.spent]
    assert min(seconds) > 0
    assert sum(seconds) <= record.seconds["train"] + record.seconds["other"], "not evaluation"


def test_a_request_that_takes_no_step_is_one_update(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", "requests=L0 L1 U0 L2")
    assert run_cell(store.folder) == 0
    record = store.read_record()
    assert [row["updates"] for row in record.spent] == [8, 6, 1, 6]
    assert [row["samples"] for row in record.spent] == [64, 48, 0, 48]
    assert record.iteration == 21


def test_a_request_leaves_the_learning_optimizer_alone(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, dict[str, Any]]] = []
    real = Run._optimizer

    def spy(self: Run, module: Any) -> Any:
        optimizer = real(self, module)
        made.append((module.exp.kind, copy.deepcopy(optimizer.state_dict()["state"])))
        return optimizer

    monkeypatch.setattr(Run, "_optimizer", spy)
    words = ("strategy=retain+replay", "options.retain.steps=5", "copies=true", "checkpoint=2")
    store = make_cell(
        *words, "requests=L0 L1 U0 L2 U1", "optim.reset=never", "optim.momentum=0.9", name="a"
    )
    with monkeypatch.context() as patch:
        stop_at(patch, LEARNED + 5 + 1)
        with pytest.raises(Stop):
            run_cell(store.folder)
    before = resume.load(store.before_path(2))["optimizers"]
    after = resume.load(store.checkpoint_path)["optimizers"]
    assert before.keys() == {"learn"} and after.keys() == {"learn", "forget"}
    assert before["learn"]["state"] and equal(before["learn"], after["learn"])
    assert not equal(after["learn"]["state"], after["forget"]["state"])
    assert run_cell(store.folder) == 0
    kinds, states = zip(*made, strict=True)
    assert kinds == ("learn", "learn", "forget", "learn", "learn", "forget")
    assert states[1] and not states[2] and not states[5], "a request begins with no state at all"
    assert equal(states[3], before["learn"]["state"]) and equal(states[3], states[4])


# -- what is measured ------------------------------------------------------------------------


def final(store: RunStore, train: int, readout: str = "net/seen") -> dict[int, float]:
    """Accuracy on each experience at the end of `train`, from the full test sets."""
    rows = store.read_boundary(readout).to_pylist()
    return {
        r["eval_experience"]: r["correct"] / r["total"]
        for r in rows
        if r["train_experience"] == train and r["iteration"] > 0
    }


@pytest.mark.parametrize("setting", ["class", "task"])
def test_metrics_tell_what_forgetting_did(make_cell: MakeCell, setting: str) -> None:
    words = ("requests=L0 L1 U0 L2 U1", "epochs=4", "optim.lr=0.2")
    store = make_cell(*ASCENT, *words, f"options.split_digits.setting={setting}")
    assert run_cell(store.folder) == 0
    readout = "net/task" if setting == "task" else "net/seen"
    rows = [final(store, t, readout) for t in range(5)]
    found = store.read_metrics()["unlearning"]
    assert (found["held"], found["forgotten"], found["tasks"]) == ([2], [0, 1], [0, 1, 2])
    assert found["retain_accuracy"] == pytest.approx(rows[4][3])
    assert found["forget_accuracy"] == pytest.approx((rows[4][0] + rows[4][1]) / 2)
    chances = (1 / 4, 1 / 3) if setting == "task" else (1 / 10, 1 / 10)
    over = [rows[4][i] - c for i, c in enumerate(chances)]
    assert found["forget_above_chance"] == pytest.approx(sum(over) / 2)
    first, second = found["forgets"]
    assert (first["before"], first["after"]) == pytest.approx((rows[1][0], rows[2][0]))
    assert (second["before"], second["after"]) == pytest.approx((rows[3][1], rows[4][1]))
    peak = max(rows[3][0], rows[4][0]) - rows[2][0]
    assert (first["peak_relapse"], second["peak_relapse"]) == (pytest.approx(peak), None)
    assert found["signed_spill_per_request"][2] == pytest.approx(rows[2][1] - rows[1][1])
    held = [rows[0][0], (rows[1][0] + rows[1][1]) / 2, rows[2][1], (rows[3][1] + rows[3][3]) / 2]
    assert [r["retain_accuracy"] for r in found["rows"][:4]] == pytest.approx(held)
    assert [f"{r['op']}{r['tasks'][0]}" for r in found["rows"]] == ["L0", "L1", "U0", "L2", "U1"]
    assert [r["position"] for r in found["rows"]] == [0, 1, 2, 3, 4]
    assert store.read_record().metrics["unlearning/retain_accuracy"] == found["retain_accuracy"]


def test_tasks_are_called_by_their_number_in_the_scenario(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", "requests=L2 L1 U2")
    assert run_cell(store.folder) == 0
    found = store.read_metrics()["unlearning"]
    assert found["tasks"] == [1, 2]
    assert [found["tasks"][k] for k in found["forgotten"]] == [2]
    assert found["forget_accuracy"] == pytest.approx(final(store, 2)[0])


@pytest.mark.parametrize(
    "requests", ["null", "L0 L1", "[L0, L1, {forget: {classes: [4]}}]"], ids=["none", "L", "part"]
)
def test_where_no_whole_experience_was_forgotten_nothing_is_told(
    make_cell: MakeCell, requests: str
) -> None:
    store = make_cell("strategy=replay", f"requests={requests}")
    assert run_cell(store.folder) == 0
    assert "unlearning" not in store.read_metrics()


def test_what_is_learned_again_is_held_again(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", "requests=L0 L1 U0 L0", "epochs=3", "optim.lr=0.2")
    assert run_cell(store.folder) == 0
    metrics, rows = store.read_metrics(), [final(store, t) for t in range(4)]
    found = metrics["unlearning"]
    assert metrics["n_experiences"] == 2
    assert metrics["acc_final"] == pytest.approx((rows[3][1] + rows[3][3]) / 2)
    assert (found["held"], found["forgotten"]) == ([0, 1], [])
    assert found["forget_accuracy"] is None
    assert found["retain_accuracy"] == pytest.approx((rows[3][1] + rows[3][3]) / 2)
    assert found["rows"][2]["forget_accuracy"] == pytest.approx(rows[2][0])
    (forget,) = found["forgets"]
    assert forget["until"] == 3


def test_tasks_forgotten_together_are_judged_by_what_they_were_before(
    make_cell: MakeCell,
) -> None:
    words = ("requests=[L0, L1, L2, {forget: {tasks: [0, 1]}}]", "epochs=4", "optim.lr=0.2")
    store = make_cell("strategy=discard+replay", *words)
    assert run_cell(store.folder) == 0
    before, after = (final(store, t) for t in (2, 3))
    found = store.read_metrics()["unlearning"]
    assert [f["before"] for f in found["forgets"]] == pytest.approx([before[0], before[1]])
    assert [f["after"] for f in found["forgets"]] == pytest.approx([after[0], after[1]])
    assert found["signed_spill"] == pytest.approx(after[2] - before[2]), "of what is held alone"
    assert [(r["op"], *r["tasks"]) for r in found["rows"]][3:] == [("U", 0, 1)]
    assert not any(f["void"] for f in found["forgets"])


def test_requests_that_leave_something_keep_their_place(make_cell: MakeCell) -> None:
    uid = make_stream(load_run(small_words("strategy=replay"))).experiences[1].train.uid[0].item()
    store = make_cell("strategy=replay", f"requests=[L0, L1, {{forget: {{uids: [{uid}]}}}}, U0]")
    assert run_cell(store.folder) == 0
    found = store.read_metrics()["unlearning"]
    assert [(r["position"], r["op"]) for r in found["rows"]] == [(0, "L"), (1, "L"), (3, "U")]
    (forget,) = found["forgets"]
    assert forget["before"] == pytest.approx(final(store, 1)[0])


@pytest.mark.parametrize("last", ["L2", "U1"])
def test_where_an_experience_has_lost_a_class_its_accuracy_tells_neither(
    make_cell: MakeCell, last: str
) -> None:
    """Its test data has the class still; once the rest has gone, too, there is no before."""
    requests = f"requests=[L0, L1, {{forget: {{classes: [4]}}}}, {last}]"
    store = make_cell("strategy=replay", requests)
    assert run_cell(store.folder) == 0
    assert "unlearning" not in store.read_metrics()
