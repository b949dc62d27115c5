"""Four plain ways to forget: climb the loss, learn wrong labels, or the rest, close the output."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import clframe
from clframe.config.identity import from_yaml
from clframe.core.experience import Batch, Experience, Samples
from clframe.core.net import CLOSED, Net
from clframe.core.rng import clock
from clframe.core.strategy import StreamInfo
from clframe.engine.run import run_cell
from clframe.engine.session import Run
from clframe.errors import ConfigError
from clframe.registry import plugins
from tests.conftest import MakeCell
from tests.unit.engine.test_resume import Stop, assert_equal_runs, stop_at
from tests.unit.strategies.methods import (
    batch_of,
    build,
    experience,
    identity_net,
    images,
    make,
    request,
    small_net,
    stream,
    trained,
)

ONLY_FORGET = [name for name, p in plugins("strategy").items() if p.only_forgets]
SURE = {"ssd": ("options.ssd.alpha=1.0",)}  # that it changes a weight
READERS = ("ascent", "relabel")  # of what they are to forget


def forget(strategy: Any, exp: Experience, steps: int) -> list[dict[str, Tensor]]:
    """`steps` steps of a request on all its data, with its own optimizer."""
    optimizer = strategy.optimizer(exp) or torch.optim.SGD(strategy.parameters(), lr=0.05)
    strategy.forget(exp)
    found = []
    for i in range(steps):
        clock.set(0, 1000 + i)
        terms = strategy.forget_loss(exp, Batch(*exp.train.take(torch.arange(len(exp.train)))))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        found.append(terms)
    return found


def losses(strategy: Any, exp: Experience) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(strategy.net(exp.train.x), exp.train.y, reduction="none")


def weights(strategy: Any) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in strategy.net.state_dict().items()}


# -- ascent ----------------------------------------------------------------------------------


def test_ascent_is_the_negative_loss_of_those_below_the_ceiling() -> None:
    strategy = build("ascent+fine_tune", 4, identity_net(4), ceiling=1.0)
    x = [[3.0, 0, 0, 0], [0, 0, 0, 0], [0, 3.0, 0, 0]]
    batch = batch_of(x, [0, 1, 0])  # well below, just at ln 4, above
    total = math.log(math.exp(3) + 3)
    terms = strategy.forget_loss(request(experience(0, [0, 1], batch)), batch)
    assert terms.keys() == {"forget"}
    assert terms["forget"].item() == pytest.approx(-(total - 3) / 3), "of all three"
    free = build("ascent+fine_tune", 4, identity_net(4), ceiling=None)
    every = (total - 3) + math.log(4) + total
    found = free.forget_loss(request(experience(0, [0, 1], batch)), batch)
    assert found["forget"].item() == pytest.approx(-every / 3)


def test_ascent_climbs_until_the_ceiling_and_stops() -> None:
    strategy, (_, latest) = trained("ascent+fine_tune", lr=0.05, ceiling=2.0), stream()
    exp, before = request(latest), losses(trained("fine_tune"), latest)
    assert torch.equal(losses(strategy, latest), before) and before.mean() < 1.0
    forget(strategy, exp, 3)
    assert losses(strategy, latest).mean() > before.mean()
    forget(strategy, exp, 300)
    reached = losses(strategy, latest)
    assert (reached >= 2 * math.log(4)).all() and reached.isfinite().all()
    stopped = weights(strategy)
    forget(strategy, exp, 5)
    assert all(torch.equal(v, stopped[k]) for k, v in weights(strategy).items())


def test_what_is_forgotten_leaves_no_statistics_in_batch_norm() -> None:
    for name in READERS:
        layers = (torch.nn.Flatten(), torch.nn.Linear(48, 8), torch.nn.BatchNorm1d(8))
        strategy = build(f"{name}+fine_tune", 4, Net(torch.nn.Sequential(*layers), 8, 4))
        before, exp = weights(strategy), request(stream()[0])
        strategy.begin(stream()[1])
        forget(strategy, exp, 2)
        after = weights(strategy)
        running = [k for k in after if "running" in k or "num_batches" in k]
        assert len(running) == 3 and all(torch.equal(after[k], before[k]) for k in running)
        assert strategy.net.training and not torch.equal(after["head.bias"], before["head.bias"])


def test_without_a_ceiling_it_climbs_on() -> None:
    strategy, (_, latest) = trained("ascent+fine_tune", lr=0.05, ceiling=None), stream()
    forget(strategy, request(latest), 40)
    middle = losses(strategy, latest).mean()
    forget(strategy, request(latest), 40)
    assert losses(strategy, latest).mean() > middle > 4 * math.log(4)


def test_an_optimizer_of_its_own_for_requests_alone() -> None:
    for name, lr in (("ascent", 0.3), ("relabel", 0.07)):
        strategy, exp = build(f"{name}+fine_tune", 4, small_net(), lr=lr), stream()[0]
        assert strategy.optimizer(exp) is None
        optimizer = strategy.optimizer(request(exp))
        assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["lr"] == lr
        assert optimizer.param_groups[0]["momentum"] == 0
    assert build("retain+fine_tune", 4, small_net()).optimizer(request(exp)) is None


# -- relabel ---------------------------------------------------------------------------------


def relabel(seen: Sequence[int], setting: str = "class", num_classes: int = 6) -> Any:
    """A strategy that has met the classes `seen`."""
    clock.set(0, 0)
    strategy = make("relabel", make("fine_tune"))
    strategy.attach(identity_net(num_classes), StreamInfo(num_classes, 3, setting, (num_classes,)))
    strategy.begin(experience(0, seen))
    return strategy


def many(n: int, labels: Sequence[int], index: int = 2) -> Experience:
    """A request for `n` samples with those labels in turn; uids do not rise."""
    y = torch.tensor([labels[i % len(labels)] for i in range(n)])
    uid = torch.randperm(n, generator=torch.Generator().manual_seed(1)) + 50
    data = Batch(torch.zeros(n, 6), y, torch.zeros_like(y), uid)
    return request(experience(0, sorted(set(labels)), data), index=index)


def test_labels_are_wrong_and_of_classes_that_are_held() -> None:
    exp = dataclasses.replace(many(600, [0, 1]), forgets=(), emptied=())
    strategy = relabel([0, 1, 3, 4])
    strategy.forget(exp)
    wrong = strategy.wrong(exp, exp.train.uid)
    assert (wrong != exp.train.y).all()
    assert sorted(wrong[exp.train.y == 0].unique().tolist()) == [1, 3, 4]
    assert sorted(wrong[exp.train.y == 1].unique().tolist()) == [0, 3, 4]
    counts = torch.bincount(wrong[exp.train.y == 0], minlength=6)[[1, 3, 4]]
    assert counts.min() > 70, "a third of 300 each"
    emptied = dataclasses.replace(exp, emptied=(0, 1))
    strategy.forget(emptied)
    assert set(strategy.wrong(emptied, exp.train.uid).tolist()) == {3, 4}
    strategy.begin(experience(3, [1]))
    assert 1 in strategy.wrong(emptied, exp.train.uid), "which has been learned again"


def test_labels_belong_to_samples_whatever_the_batch() -> None:
    strategy, exp = relabel([0, 1, 2, 3, 4, 5]), many(60, [0, 1])
    whole = strategy.wrong(exp, exp.train.uid)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(7))
    clock.set(9, 99)  # nor on when it is asked
    assert torch.equal(strategy.wrong(exp, exp.train.uid[order]), whole[order])
    assert torch.equal(strategy.wrong(exp, exp.train.uid[5:9]), whole[5:9])
    later, other = dataclasses.replace(exp, index=5), dataclasses.replace(exp, origin=1)
    assert torch.equal(strategy.wrong(later, exp.train.uid), whole), "nor on what came between"
    assert not torch.equal(strategy.wrong(other, exp.train.uid), whole)
    clock.set(1, 0)
    again = make("relabel", make("fine_tune"))
    again.attach(identity_net(6), strategy.info)
    again.begin(experience(0, range(6)))
    assert not torch.equal(again.wrong(exp, exp.train.uid), whole), "another seed"
    again.load_state_dict(strategy.state_dict())
    assert torch.equal(again.wrong(exp, exp.train.uid), whole), "but not after a resume"


def test_of_a_task_labels_stay_within_it() -> None:
    exp = many(90, [2, 3, 4])
    wrong = relabel([0, 1, 2, 3, 4, 5], setting="task").wrong(exp, exp.train.uid)
    assert set(wrong.tolist()) == {2, 3, 4} and (wrong != exp.train.y).all()


def test_a_class_that_is_alone_gets_whatever_there_is() -> None:
    exp = many(90, [2])
    for strategy in (relabel([2]), relabel([1, 2, 3], setting="task")):
        assert set(strategy.wrong(exp, exp.train.uid).tolist()) == set(range(6))


def test_relabel_learns_its_labels() -> None:
    strategy, (_, latest) = trained("relabel+fine_tune", lr=0.05), stream()
    exp = request(latest)
    strategy.forget(exp)
    batch = Batch(*latest.train.take(torch.arange(6)))
    taught = strategy.wrong(exp, batch.uid)
    terms = strategy.forget_loss(exp, batch)
    before = terms["forget"].item()
    assert before == F.cross_entropy(strategy.net(batch.x), taught).item()
    forget(strategy, exp, 200)
    after = F.cross_entropy(strategy.net(batch.x), taught)
    assert after < 0.5 * before and losses(strategy, latest).mean() > math.log(4)


# -- retain ----------------------------------------------------------------------------------


def test_retain_asks_for_everything_that_is_left_once() -> None:
    first, second = stream()
    strategy = build("retain+fine_tune", 4, small_net(), steps=7)
    empty = dataclasses.replace(first, train=Samples(*(t[:0] for t in images(0))))
    twice = dataclasses.replace(second, index=3)
    found = strategy.data(request(first), [empty, second, twice])
    assert found.uid.tolist() == list(second.uids)
    assert strategy.data(second, [first]) is None
    assert strategy.budget(request(first, handed=False)) == 7
    assert len(strategy.data(request(first), [empty])) == 0, "nothing is left"


def test_retain_keeps_what_is_held_and_reads_nothing_else(make_cell: MakeCell) -> None:
    requests = "requests=[L0, L1, {forget: {classes: [4]}}, U0, L2]"
    store = make_cell("strategy=retain+fine_tune", "options.retain.steps=30", requests)
    run = Run(from_yaml(store.config_path), store, True)
    seen: dict[int, set[int]] = {}
    own = run.strategy.forget_loss

    def spy(exp: Experience, batch: Batch) -> dict[str, Tensor]:
        seen.setdefault(exp.index, set()).update(batch.uid.tolist())
        return own(exp, batch)

    run.strategy.forget_loss = spy  # type: ignore[method-assign]
    run.all()
    exps = run.stream.experiences
    known = [set(exps[i].train.uid.tolist()) for i in (0, 1)]
    of_class = {
        u
        for u, y in zip(exps[1].train.uid.tolist(), exps[1].train.y.tolist(), strict=True)
        if y == 4
    }
    assert len(of_class) == 16
    assert seen == {2: known[0] | known[1] - of_class, 3: known[1] - of_class}
    assert run.position.past_samples == 96 + 32
    rows = store.read_boundary("net/seen").to_pylist()
    found = {(r["train_experience"], r["eval_experience"]): r["accuracy"] for r in rows}
    assert found[3, 1] > found[1, 0], "thirty more steps on one experience alone"


# -- discard ---------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_discard_closes_the_rows_of_classes_and_no_others(make_cell: MakeCell, head: str) -> None:
    words = ("strategy=discard+replay", f"net.head={head}", "epochs=3", "optim.lr=0.2")
    store = make_cell(*words, "requests=L0 L1 L2 U1", "copies=true")
    assert run_cell(store.folder) == 0
    before, after = (clframe.load_run(store.folder, p) for p in ("before-3.ckpt", "last.ckpt"))
    x, closed, held = torch.rand(40, 1, 8, 8), [4, 5, 6], [0, 1, 2, 3, 7, 8, 9]
    for key, value in before.net.state_dict().items():
        now = after.net.state_dict()[key]
        if key.startswith("head"):
            assert torch.equal(now[held], value[held]) and (now[closed] == 0).all(), key
        elif key != "opened":
            assert torch.equal(now, value), key
    with torch.no_grad():
        old, new = before.predict(x, None), after.predict(x, None)
    assert torch.equal(new[:, held], old[:, held]) and (new[:, closed] == CLOSED).all()
    uids = set(after.base.memory.column("uid").tolist())  # type: ignore[attr-defined]
    stream = Run(from_yaml(store.config_path), store, True).stream
    assert uids and not uids & set(stream.experiences[1].train.uid.tolist())


def test_a_class_that_comes_again_has_a_row_again() -> None:
    strategy, (first, second) = trained("discard+fine_tune"), stream()
    before = weights(strategy)
    strategy.prepare(second)
    assert all(torch.equal(v, before[k]) for k, v in weights(strategy).items()), "all are open"
    assert strategy.forget(request(first)) is True
    assert strategy.net.opened.tolist() == [False, False, True, True]
    strategy.prepare(first)
    head = strategy.net.get_parameter("head.weight")
    assert strategy.net.opened.all() and head[:2].any(1).all()
    assert not torch.equal(head[:2], before["head.weight"][:2]), "drawn anew"
    assert torch.equal(head[2:], before["head.weight"][2:])


def test_what_was_discarded_can_be_learned_again(make_cell: MakeCell) -> None:
    words = ("strategy=discard+replay", "epochs=8", "optim.lr=0.2", "requests=L0 L1 U0 L0")
    store = make_cell(*words)
    assert run_cell(store.folder) == 0
    rows = store.read_boundary("net/seen").to_pylist()
    found = {(r["train_experience"], r["eval_experience"]): r["accuracy"] for r in rows}
    assert found[1, 0] > 0.3 and found[2, 0] == 0.0 and found[3, 3] > 0.5


def test_discard_answers_only_where_a_class_is_emptied(make_cell: MakeCell) -> None:
    strategy, (first, _) = build("discard+fine_tune", 4, small_net()), stream()
    assert strategy.budget(request(first)) is None and strategy.budget(first) is None
    part = dataclasses.replace(request(first), forgets=(), emptied=())
    with pytest.raises(ConfigError, match=r"requests\[2\]: no class loses all its samples"):
        strategy.budget(part)
    words = ("options.split_digits.setting=domain", "requests=L0 L1 U0")
    words += tuple(f"options.split_digits.{w}" for w in ("base=2", "increment=2", "experiences=5"))
    store = make_cell("strategy=discard+replay", *words)
    assert run_cell(store.folder) == 2, "where tasks share their classes"
    assert "forget whole classes, or use another way" in str(store.read_record().error)


def test_discarded_outputs_stay_closed_over_a_resume(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("strategy=discard+replay", "requests=L0 L1 L2 U1 U0 L1", "checkpoint=2")
    whole, parts = (make_cell(*words, name=n) for n in ("whole", "parts"))
    assert run_cell(whole.folder) == 0
    for stop in (20 + 2 + 1, 20 + 2 + 5):  # before the first update of the last, and inside it
        with monkeypatch.context() as patch:
            stop_at(patch, stop)
            with pytest.raises(Stop):
                run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)
    assert clframe.load_run(parts.folder).net.opened.tolist() == [False] * 4 + [True] * 6


def test_a_state_dict_says_what_is_closed() -> None:
    strategy, (first, _) = trained("discard+fine_tune"), stream()
    strategy.forget(request(first))
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    again = build("discard+fine_tune", 4, small_net(dropout=False))
    again.load_state_dict(torch.load(file, weights_only=True))
    x = images(3).x
    with torch.no_grad():
        assert torch.equal(again.eval().predict(x, None), strategy.eval().predict(x, None))
    again.prepare(first)
    assert again.net.opened.all()


# -- all that only forget ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ONLY_FORGET)
def test_they_only_forget(name: str) -> None:
    plain, wrapped = trained("replay", capacity=5), trained(f"{name}+replay", base={"capacity": 5})
    assert all(torch.equal(v, weights(wrapped)[k]) for k, v in weights(plain).items())


@pytest.mark.parametrize("name", ONLY_FORGET)
def test_until_the_first_request_a_run_is_its_bases(make_cell: MakeCell, name: str) -> None:
    words = ("requests=L0 L1 U0 L2", "forget_data=true", "copies=true", "optim.momentum=0.9")
    plain = make_cell("strategy=replay", *words, name="plain")
    wrapped = make_cell(f"strategy={name}+replay", *SURE.get(name, ()), *words, name="wrapped")
    assert run_cell(plain.folder) == run_cell(wrapped.folder) == 0
    one, other = (clframe.load_run(s.folder, "before-2.ckpt") for s in (plain, wrapped))
    state = other.base.state_dict()  # type: ignore[union-attr]
    assert one.state_dict().keys() == state.keys()
    for key, value in one.state_dict().items():
        same = torch.equal(value, state[key]) if torch.is_tensor(value) else value == state[key]
        assert same or (name == "discard" and key == "_extra_state"), key
    assert {k: p.shape for k, p in one.named_parameters()}.keys() <= state.keys()
    rows = [s.read_trace("net/all").to_pylist() for s in (plain, wrapped)]
    upto = [[r for r in found if r["iteration"] <= 14] for found in rows]
    assert upto[0] == upto[1] and rows[0] != rows[1]


@pytest.mark.parametrize("name", ONLY_FORGET)
@pytest.mark.parametrize("base", ["uncle", "fetril"])
def test_bases_that_predict_otherwise_are_refused(
    make_cell: MakeCell, name: str, base: str
) -> None:
    store = make_cell(f"strategy={name}+{base}", "requests=L0 L1 U0", "forget_data=true")
    assert run_cell(store.folder) == 2
    error = str(store.read_record().error)
    assert f"{name} changes the network itself, and {base} predicts by more" in error
    assert f"put {name} around another strategy" in error


@pytest.mark.parametrize("name", READERS)
def test_a_request_is_answered_on_its_own_data_whatever_the_base_takes(name: str) -> None:
    strategy, (first, second) = build(f"{name}+joint", 4, small_net()), stream()
    assert strategy.data(request(second), [first, second]).uid.tolist() == list(second.uids)
    assert len(strategy.data(second, [first])) == 12


@pytest.mark.parametrize("name", READERS)
def test_data_that_is_needed_is_asked_for_before_the_run_begins(
    make_cell: MakeCell, name: str
) -> None:
    store = make_cell(f"strategy={name}+replay", "requests=L0 L1 U0 L2")
    assert run_cell(store.folder) == 2
    error = str(store.read_record().error)
    assert f"requests[2]: {name} reads what it is to forget" in error
    assert "set forget_data=true, or data: true in the request" in error
    assert not store.checkpoint_path.exists()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("ascent", {"steps": 0}, "steps: 0 is out of range; give 1 or more"),
        ("ascent", {"lr": 0.0}, "lr: 0.0 is out of range; give more than 0"),
        ("ascent", {"lr": float("nan")}, "lr: nan is out of range; give more than 0"),
        ("ascent", {"ceiling": -1.0}, "ceiling: -1.0 is out of range; give more than 0"),
        ("relabel", {"steps": -1}, "steps: -1 is out of range; give 1 or more"),
        ("relabel", {"lr": -0.1}, "lr: -0.1 is out of range; give more than 0"),
        ("retain", {"steps": 0}, "steps: 0 is out of range; give 1 or more"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(name, make("fine_tune"), **options)
