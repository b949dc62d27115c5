"""What each experience trains on, what the progress bar is told, and the Trainer they share."""

from __future__ import annotations

from typing import Any

import pytest

from clframe.config.identity import from_yaml
from clframe.core.strategy import Strategy
from clframe.engine.session import Run
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
