"""Every shortcut counts as the plain forward does, or is given up with a word."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clframe.config.schema import Optim
from clframe.core.net import Net
from clframe.core.strategy import Frozen, Strategy, StreamInfo
from clframe.engine.optim import build_optimizer
from clframe.engine.run import run_cell
from clframe.errors import TrainingError
from clframe.evaluation import shortcuts, trial
from clframe.evaluation.bank import EvalBank
from clframe.evaluation.counter import Counter, Plan
from clframe.evaluation.counting import count
from clframe.evaluation.shortcuts import FeatureCache, Recorded, SecondLook
from clframe.evaluation.trial import choose
from tests.conftest import MakeCell
from tests.unit.evaluation.test_bank import experience

CPU = torch.device("cpu")
CLASSES = 6


def make_bank(n: int = 300, width: int = 8) -> EvalBank:
    g = torch.Generator().manual_seed(0)
    parts = []
    for i in range(3):
        one = experience(i, (2 * i, 2 * i + 1), [(0, 2 * i + j % 2) for j in range(n)])
        x = torch.randn(n, width, generator=g)
        samples = type(one.eval)(x, one.eval.y, one.eval.task, one.eval.uid)
        parts.append(type(one)(i, "learn", (i,), one.classes, samples, samples, origin=i))
    return EvalBank(
        parts,
        num_classes=CLASSES,
        with_task=False,
        subset=None,
        seed=0,
        device=CPU,
        normalise=lambda x: x,
    )


def make_strategy(*, frozen: bool = False) -> Strategy:
    torch.manual_seed(0)
    strategy = Strategy()
    net = Net(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), 16, CLASSES, frozen=frozen)
    strategy.attach(net, StreamInfo(CLASSES, 3, "class", (8,)))
    return strategy.eval()


@pytest.mark.parametrize("mode", ["bf16", "cached", "auto"])
@pytest.mark.parametrize("words", [(), ("net.freeze=true",), ("eval.budget=40",)])
def test_a_run_has_the_same_trace_in_every_mode(
    make_cell: MakeCell, mode: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_cell("strategy=derpp", *words, "eval.mode=plain", name="plain")
    assert run_cell(plain.folder) == 0
    given = "bf16" if mode == "bf16" else "auto"
    other = make_cell("strategy=derpp", *words, f"eval.mode={given}", name=mode)
    if mode == "cached":
        monkeypatch.setattr(trial, "_bf16_pays", lambda *_: False)
    assert run_cell(other.folder) == 0
    for read in ("read_trace", "read_boundary"):
        assert getattr(plain, read)().equals(getattr(other, read)())
    facts = other.read_record().counting
    assert facts["fallback"] is None
    if mode != "auto":
        assert facts["plan"]["mode"] == mode


def test_a_second_look_catches_every_prediction_that_bfloat16_would_flip() -> None:
    bank, strategy, look, exact = make_bank(), make_strategy(), SecondLook(), [0]

    def readout(x: Tensor, task: Tensor | None) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            exact[0] += len(x)
        return strategy.predict(x, task)

    mask = torch.zeros(CLASSES)
    view = bank.view(3, 3)
    flips = 0
    for step in range(40):  # weights move and grow, as in training
        with torch.no_grad():
            for p in strategy.parameters():
                p.add_(torch.randn_like(p) * 0.2)
        wanted = count(view, {"net": strategy.predict}, mask, bank.own, chunk=100)
        before = exact[0]
        got = count(view, {"net": readout}, mask, bank.own, chunk=100, look=look)
        assert torch.equal(got, wanted)
        if step > 20:
            assert exact[0] - before < len(view.y) / 2  # most rows are computed once
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            low = count(view, {"net": strategy.predict}, mask, bank.own, chunk=100)
        flips += int((low != wanted).sum())
    assert flips  # there was something to catch


def test_a_second_look_in_double_precision(make_cell: MakeCell) -> None:
    words = ("strategy=replay", "precision=64", "options.split_digits.train_limit=40")
    plain, other = (make_cell(*words, f"eval.mode={m}", name=m) for m in ("plain", "bf16"))
    assert run_cell(plain.folder) == run_cell(other.folder) == 0
    assert plain.read_trace().equals(other.read_trace())
    assert other.read_record().counting["fallback"] is None


def test_a_second_look_takes_no_number_for_an_answer() -> None:
    look = SecondLook()
    logits = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    out = look(lambda x, task: x, logits, None, torch.zeros(3, 2, 2))
    assert torch.equal(out.isnan(), logits.isnan()) and look.error == 0.0


def test_features_are_kept_until_the_encoder_is_written_to() -> None:
    strategy = make_strategy(frozen=True)
    calls = [0]
    encode = strategy.net.features

    def counted(x: Tensor) -> Tensor:
        calls[0] += 1
        return encode(x)

    frozen = Frozen(counted, strategy.net.backbone, {})
    cache, x = FeatureCache(), torch.randn(10, 8)
    first = cache(frozen, x, 5)
    assert cache(frozen, x, 5) is first and calls == [2] and cache.round == 1
    with torch.no_grad():
        strategy.net.backbone[0].weight.mul_(2)  # type: ignore[index, union-attr]
    assert not torch.equal(cache(frozen, x, 5), first) and cache.round == 2


def test_what_writes_to_the_encoder_is_counted_at_the_next_observation() -> None:
    bank, strategy = make_bank(), make_strategy(frozen=True)
    counter, mask = Counter(bank, strategy, Plan("cached", 100)), torch.zeros(CLASSES)
    first = counter(3, 3, mask)
    with torch.no_grad():
        strategy.net.backbone[0].weight.neg_()  # type: ignore[index, union-attr]
    again = counter(3, 3, mask)
    assert torch.equal(again, counter.plainly(3, 3, mask)) and not torch.equal(again, first)


def test_an_encoder_that_an_optimizer_may_write_to_is_not_kept() -> None:
    """A fused optimizer changes weights without raising their version."""
    bank, strategy = make_bank(), make_strategy(frozen=True)
    strategy.net.backbone.requires_grad_(True)
    optimizer = build_optimizer(Optim(lr=50.0), strategy.parameters())
    counter, mask = Counter(bank, strategy, Plan("cached", 100)), torch.zeros(CLASSES)
    for _ in range(3):
        assert optimizer is not None
        strategy.net(bank.x).square().sum().backward()
        optimizer.step()
        assert torch.equal(counter(3, 3, mask), counter.plainly(3, 3, mask))
    assert counter.features.round == 0


def test_a_graph_that_cannot_be_is_said_to_be_given_up() -> None:
    class Own(Strategy):
        def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
            return -self.net(x)

    own = Own()
    own.attach(make_strategy().net, StreamInfo(CLASSES, 3, "class", (8,)))
    counter = Counter(make_bank(), own, Plan("graph", 100))
    counter.prove(3, 3, torch.zeros(CLASSES))
    assert counter.plan.mode == "plain" and "way of its own" in str(counter.fallback)


def test_a_resumed_run_knows_how_it_counts_and_what_it_gave_up(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_cell("strategy=replay", "eval.mode=bf16", "checkpoint=1")
    real, calls = Counter.problem, [0]

    def problem(self: Counter, *args: Any) -> str | None:
        calls[0] += 1
        if calls[0] == 4:
            raise RuntimeError("stopped for a test")
        return "made up for a test" if calls[0] == 1 else real(self, *args)

    monkeypatch.setattr(Counter, "problem", problem)
    assert run_cell(store.folder) == 1
    monkeypatch.setattr(Counter, "problem", real)
    assert run_cell(store.folder) == 0
    facts = store.read_record().counting
    assert "made up for a test" in facts["fallback"] and facts["plan"]["mode"] == "plain"
    assert facts["trial_ms"] is not None


@pytest.mark.parametrize("words", [(), ("eval.mode=bf16",)])
def test_boundaries_alone_are_counted_as_asked(make_cell: MakeCell, words: tuple[str, ...]) -> None:
    store = make_cell("strategy=replay", "eval.rho=0", "net.freeze=true", *words)
    assert run_cell(store.folder) == 0
    assert store.read_record().counting["plan"]["mode"] == ("bf16" if words else "cached")


def test_features_that_do_change_are_found_out(caplog: pytest.LogCaptureFixture) -> None:
    class Liar(Strategy):
        """Says that its features are frozen, and reads them through a weight that is not told."""

        scale = 1.0

        def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
            return self.net.classify(self.scale * self.net.features(x) - self.scale)

        def frozen_features(self) -> Frozen:
            part: Callable[[Tensor], Tensor] = lambda x: self.scale * self.net.features(x)  # noqa: E731
            readouts = {"net": lambda f, task: self.net.classify(f - self.scale)}
            return Frozen(part, self.net.backbone, readouts)

    liar, bank = Liar(), make_bank()
    liar.attach(make_strategy(frozen=True).net, StreamInfo(CLASSES, 3, "class", (8,)))
    counter, mask = Counter(bank, liar, Plan("cached", 100)), torch.zeros(CLASSES)
    counter.prove(3, 3, mask)
    assert counter.fallback is None and counter.problem(3, 3, mask) is None
    liar.scale = -3.0
    assert "counts differ" in str(counter.problem(3, 3, mask))
    with caplog.at_level(logging.WARNING):
        counter.prove(3, 3, mask)
    assert "given up at the start" in caplog.text and counter.plan == Plan("plain", 100)
    assert torch.equal(counter(3, 3, mask), counter.plainly(3, 3, mask))


@pytest.mark.parametrize("wrong", ["module", "readouts"])
def test_a_declaration_that_makes_no_sense_is_an_error(wrong: str) -> None:
    class Odd(Strategy):
        def frozen_features(self) -> Frozen:
            readouts = {"nett" if wrong == "readouts" else "net": self.predict}
            module: Any = None if wrong == "module" else self.net.backbone
            return Frozen(self.net.features, module, readouts)

    odd = Odd()
    odd.attach(make_strategy(frozen=True).net, StreamInfo(CLASSES, 3, "class", (8,)))
    counter = Counter(make_bank(), odd, Plan("cached", 100))
    with pytest.raises(TrainingError, match="Odd"):
        counter.prove(3, 3, torch.zeros(CLASSES))


def test_a_run_that_was_counted_wrongly_never_counts_as_done(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is declared changes in the middle of an experience, behind torch's back."""
    step = Strategy.after_step

    def drift(self: Strategy, batch: Any) -> None:
        step(self, batch)
        for p in self.net.backbone.parameters():
            p.data.mul_(-1.1)

    monkeypatch.setattr(Strategy, "after_step", drift)
    monkeypatch.setattr(trial, "_bf16_pays", lambda *_: False)
    store = make_cell("strategy=fine_tune", "net.freeze=true")
    assert run_cell(store.folder) == 1
    said = str(store.read_record().error)
    assert "counted wrongly" in said and "frozen_features" in said and "delete" in said


def test_a_recording_is_made_anew_when_its_work_has_changed() -> None:
    recorded: list[Callable[[], Tensor]] = []

    def record(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recorded.append(work)
        return work

    graph, net = Recorded(record), nn.Linear(2, 2)
    work: Any = lambda: net(torch.ones(1, 2))  # noqa: E731
    graph(work, net, 1)
    graph(work, net, 1)
    assert len(recorded) == 1
    graph(work, net, 2)  # other rows
    assert len(recorded) == 2
    net.weight = nn.Parameter(torch.zeros(2, 2))
    assert torch.equal(graph(work, net, 2), net(torch.ones(1, 2)))
    assert len(recorded) == 3


def test_the_trial_takes_the_fastest_of_the_chunks_that_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank, strategy = make_bank(), make_strategy()
    costs = {"100": 1.0, "250": 2.0, "1000": 3.0}
    monkeypatch.setattr(trial, "_bf16_pays", lambda *_: False)
    monkeypatch.setattr(trial, "best_of", lambda work, device: costs[str(work.__defaults__[0])])
    default = Plan("plain", 1000)
    plan, found = choose(bank, strategy, default, mode="auto", fixed=False)
    assert plan == Plan("cached", 100) and found["chunk 250"] == 2000.0
    assert choose(bank, strategy, default, mode="plain", fixed=True) == (default, {})

    def by_size(x: Tensor, task: Tensor | None) -> Tensor:  # the bits depend on the chunk
        return torch.zeros(len(x), CLASSES) + (len(x) if len(x) <= 100 else 0)

    monkeypatch.setattr(strategy, "predict", by_size)
    assert choose(bank, strategy, default, mode="plain", fixed=False)[0].chunk == 250


def test_a_chunk_that_was_not_tried_whole_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PATIENCE", 0.0)  # as if one forward took too long
    monkeypatch.setattr(trial, "_bf16_pays", lambda *_: False)
    found = choose(make_bank(), make_strategy(), Plan("plain", 250), mode="auto", fixed=False)[1]
    assert set(found) == {"chunk 250", "chunk 100"}


def test_a_rank_without_samples_takes_what_it_is_given() -> None:
    bank = make_bank(0)
    assert choose(bank, make_strategy(), Plan("plain", 250), mode="auto", fixed=False) == (
        Plan("cached", 250),
        {},
    )


def test_a_graph_is_not_for_a_cpu(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", "eval.mode=graph")
    assert run_cell(store.folder) == 2
    assert "eval.mode" in str(store.read_record().error)


def test_one_row_in_so_many_is_checked_and_in_time_each() -> None:
    look = SecondLook()
    look.error = 1e-3
    seen: list[int] = []

    def readout(x: Tensor, task: Tensor | None) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            seen.extend(x[:, 2].long().tolist())
        return x[:, :2]

    x = torch.tensor([[0.0, 9.0, i] for i in range(64)])
    for _ in range(8 * shortcuts.AUDIT):
        look(readout, x, None, torch.zeros(3, 64, 2))
    assert set(seen) == set(range(64)) and len(seen) == 64 * 8
