"""Ranks that die, fail, hang or are resumed elsewhere: nothing is lost, nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clframe.config.identity import from_yaml
from clframe.grid.differences import difference, distance
from clframe.grid.launch import environment
from clframe.grid.supervise import CellOutcome, Follower, begin, launcher, supervise
from clframe.tracking.store import RunStore
from tests.conftest import prepare_cell
from tests.ddp.breaks import MARK

WORDS = ("accelerator=cpu", "devices=2", "checkpoint=5", "options.split_digits.train_limit=30")
Start = Callable[..., tuple[CellOutcome, Path]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`start("Killed", word, ...)`: how a run on two ranks ends to which that happens."""
    monkeypatch.setenv(MARK, str(tmp_path / "happened"))

    def run(what: str, *words: str) -> tuple[CellOutcome, Path]:
        name = f"tests.ddp.breaks:{what}" if what != "replay" else what
        folder = prepare_cell(tmp_path / what, f"strategy={name}", *WORDS, *words).folder
        return supervise(folder, None), folder

    return run


@pytest.mark.parametrize("what", ["Killed", "KilledFirst"])
def test_a_killed_rank_costs_nothing(start: Start, what: str) -> None:
    left_alone, whole = start("replay")
    outcome, folder = start(what)
    assert (outcome.status, outcome.attempts, left_alone.attempts) == ("done", 2, 1)
    assert difference(whole, folder) is None


def test_a_rank_that_fails_ends_all_and_says_why(start: Start) -> None:
    outcome, folder = start("Failing")
    assert (outcome.status, outcome.rc, outcome.attempts) == ("failed", 1, 1)
    assert outcome.error == "rank 1: RuntimeError: only here"
    assert supervise(folder, None).status == "done"  # the mark is there: it goes on


def test_a_rank_that_leaves_without_a_word_is_named(start: Start) -> None:
    outcome, folder = start("Leaving")
    assert (outcome.status, outcome.rc) == ("failed", 7)
    assert outcome.error == "rank 1 ended with exit code 7, without a word"
    assert RunStore(folder).read_record().iteration > 0


def test_ranks_whose_losses_have_other_terms_are_told(start: Start) -> None:
    outcome, _ = start("OtherTerms")
    assert outcome.status == "failed" and outcome.error is not None
    assert "has the terms ['new'] on rank 0 and ['other'] on rank 1" in outcome.error


def test_nobody_waits_for_ever(start: Start) -> None:
    began = time.monotonic()
    outcome, _ = start("Stuck", "timeout=3")
    assert time.monotonic() - began < 30
    assert outcome.status == "failed" and outcome.error is not None
    assert outcome.error.startswith(
        "rank 0 waited in vain for the other ranks at iteration 12, in "
    )
    assert "_step (module.py:" in outcome.error, "the update in which gradients are averaged"


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path, first: int, then: int) -> None:
    words = ("strategy=derpp", "accelerator=cpu", "checkpoint=5", "precision=64")
    words += ("options.split_digits.train_limit=60",)
    whole = prepare_cell(tmp_path / "whole", *words).folder
    folder = prepare_cell(tmp_path / "killed", *words, f"devices={first}").folder
    assert supervise(whole, None).status == "done"
    store, cfg = RunStore(folder), from_yaml(folder / "config.yaml")
    begin(store)
    handle = launcher(cfg)(folder, environment(1), store.log_path)
    follow = Follower(folder)
    while handle.poll() is None and follow().iteration < 20:
        time.sleep(0.01)
    handle.kill()
    while handle.poll() is None:
        time.sleep(0.01)
    assert store.read_record().status == "running", "it ended before it could be killed"
    config = store.config_path.read_text()
    store.config_path.write_text(config.replace(f"devices: {first}", f"devices: {then}"))
    assert from_yaml(store.config_path).devices == then
    assert supervise(folder, None).status == "done"
    assert distance(whole, folder) is None


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_their_supervisor(tmp_path: Path, sent: signal.Signals) -> None:
    words = ["strategy=tests.ddp.breaks:Stuck", "scenario=split_digits", "batch_size=8", *WORDS]
    env = os.environ | {MARK: str(tmp_path / "happened"), "CLFRAME_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "clframe", "run", *words, "track.enabled=false"]
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "happened").exists():
        assert run.poll() is None
        time.sleep(0.05)
    ranks = _ranks_in(tmp_path)
    assert len(ranks) == 2
    run.send_signal(sent)
    run.wait(30)
    deadline = time.monotonic() + 10
    while _ranks_in(tmp_path):
        assert time.monotonic() < deadline, "a rank lives on"
        time.sleep(0.1)


def _ranks_in(folder: Path) -> list[int]:
    """Processes with a RANK whose runs lie in `folder`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (place / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(folder)) and link.endswith("log.txt") for link in links):
            found.append(int(place.name))
    return found
