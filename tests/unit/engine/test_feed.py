"""What each experience trains on, what the progress bar is told, and the Trainer they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clframe.config.identity import from_yaml
from clframe.core.strategy import Strategy
from clframe.engine.session import Run
from clframe.errors import ConfigError
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell


def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every total that is written into a record from now on."""
    totals: list[int] = []
    real = RunStore.update_record

    def update_record(self: RunStore, **fields: Any) -> Any:
        totals.extend(fields[k] for k in fields if k == "total_iterations")
        return real(self, **fields)

    monkeypatch.setattr(RunStore, "update_record", update_record)
    return totals


@pytest.mark.parametrize(
    "words", [(), ("batch_size=21", "epochs=2")], ids=["even", "one left over"]
)
def test_the_record_is_told_once_how_long_the_run_will_be(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    store = make_cell("strategy=fine_tune", *words)
    totals = told(monkeypatch)
    run = Run(from_yaml(store.config_path), store, True)
    run.all()
    assert totals == [run.position.iteration]


def test_budgets_are_known_in_advance(make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strategy, "budget", lambda self, exp: 3 if exp.index == 1 else None)
    store = make_cell("strategy=fine_tune", "requests=L0 L2 L1")
    totals = told(monkeypatch)
    Run(from_yaml(store.config_path), store, True).all()
    assert totals == [8 + 3 * 6 + 6]  # three epochs of the second
    assert store.read_record().total_iterations == store.read_record().iteration


def test_the_record_is_told_what_turns_out_otherwise(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_cell("strategy=joint")
    totals = told(monkeypatch)
    Run(from_yaml(store.config_path), store, True).all()
    assert totals == [8 + 6 + 6, 8 + 14 + 6, 8 + 14 + 20]  # it takes earlier data as well


def test_only_what_was_learned_before_is_past(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, list[int]] = {}

    def data(self, exp, past):  # type: ignore[no-untyped-def]
        asked[exp.index] = [e.index for e in past]

    monkeypatch.setattr(Strategy, "data", data)
    store = make_cell("strategy=fine_tune", "requests=L0 L1 F0 L2")
    Run(from_yaml(store.config_path), store, True).all()
    assert asked == {0: [], 1: [0], 3: [0, 1]}


def test_the_trainer_forgets_its_fits(make_cell: MakeCell) -> None:
    store = make_cell("strategy=fine_tune", "epochs=2")
    run = Run(from_yaml(store.config_path), store, True)
    run.all()
    trainer = run.trainer.trainer
    assert trainer.current_epoch == 2
    assert run.trainer.renewed(5) is trainer
    assert (trainer.max_epochs, trainer.current_epoch, trainer.global_step) == (5, 0, 0)


def test_a_strategy_may_not_pass_twice_over_an_online_stream(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strategy, "budget", lambda self, exp: 2)
    store = make_cell("strategy=fine_tune", "options.split_digits.online=true")
    with pytest.raises(ConfigError, match="'fine_tune' asks for 2 passes over an online stream"):
        Run(from_yaml(store.config_path), store, True)


def test_schedules_act_on_the_rate_that_a_strategy_sets(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[Any] = []
    rates: list[float] = []

    def optimizer(self: Strategy, exp: object) -> torch.optim.Optimizer:
        made = torch.optim.SGD(self.trainable(), lr=1.0)
        groups.append(made.param_groups[0])
        return made

    def begin_epoch(self: Strategy, exp: object, epoch: int) -> None:
        groups[-1]["base_lr"] = 0.1 / (1 + epoch)

    def after_step(self: Strategy, batch: object) -> None:
        rates.append(groups[-1]["lr"])

    for hook in (optimizer, begin_epoch, after_step):
        monkeypatch.setattr(Strategy, hook.__name__, hook)
    words = ("epochs=2", "requests=L0", "optim.schedule=linear", "batch_size=32")
    store = make_cell("strategy=fine_tune", *words)
    Run(from_yaml(store.config_path), store, True).all()
    assert rates == pytest.approx([0.1, 0.075, 0.05 * 0.5, 0.05 * 0.25])


def test_archives_are_in_the_costs(make_cell: MakeCell) -> None:
    words = ("options.sharp={phases: 1, phase_epochs: 1, s_stm: 3, s_ltm: 2}", "requests=L0 L1 F0")
    store = make_cell("strategy=sharp", *words)
    Run(from_yaml(store.config_path), store, True).all()
    cost = store.read_record().cost
    assert cost["memory_samples"] == 3 * 3 + 3 * 2, "of the classes that are left"
    assert cost["memory_bytes"] > 15 * 16
