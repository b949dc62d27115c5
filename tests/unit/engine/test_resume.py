"""A run that is stopped anywhere and goes on equals the run that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from clframe.core.experience import Experience
from clframe.engine import resume, session
from clframe.engine.run import run_cell
from clframe.engine.session import Run
from clframe.registry import plugins
from clframe.tracking.journal import frames
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell

KNOWN = plugins("strategy").items()  # those that only forget are killed in tests of forgetting
STRATEGIES = sorted(n + "+replay" * p.is_wrapper for n, p in KNOWN if not p.only_forgets)
STRATEGIES += ["refresh+hpcr"]
OWN = {
    "sharp": ("options.sharp={phases: 2, phase_epochs: 2}",),
    "uncle": ("options.uncle={widths: [16, 16], chunks: 8}",),
}


def assert_equal_runs(a: RunStore, b: RunStore) -> None:
    assert a.trace_path.read_bytes() == b.trace_path.read_bytes()
    assert a.boundary_path.read_bytes() == b.boundary_path.read_bytes()
    assert a.metrics_path.read_bytes() == b.metrics_path.read_bytes()
    left, right = (resume.load(s.checkpoint_path)["strategy"] for s in (a, b))
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
        assert same, key


def updates_of(store: RunStore) -> list[int]:
    """The iterations at which there was a loss; all of them where there never is one."""
    found: set[int] = set()
    for frame in frames(store.journal_path):
        if "loss/total" in frame.arrays.get("keys", ()):
            found |= set(frame.arrays["iteration"].tolist())
    return sorted(found) or list(range(1, store.read_record().iteration + 1))


class Stop(BaseException):
    """Ends a run as a kill would: nothing after it is written."""


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    real = Run.before_update

    def before_update(self: Run, local: int, last: bool) -> None:
        if self.position.iteration == iteration:
            raise Stop
        real(self, local, last)

    monkeypatch.setattr(Run, "before_update", before_update)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_and_resumed_equals_uninterrupted(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    words = (
        f"strategy={strategy}",
        "checkpoint=2",
        "epochs=2",
        "optim.momentum=0.9",
        "optim.schedule=cosine",
        *OWN.get(strategy, ()),
    )
    whole = make_cell(*words, name="whole")
    assert run_cell(whole.folder) == 0
    parts = make_cell(*words, name="parts")
    updates = updates_of(whole)
    # within epochs, at an epoch's first update, halfway, at the last
    stops = sorted({4, 11, updates[len(updates) // 2], updates[-1]})
    for iteration in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, iteration)
            with pytest.raises(Stop):
                run_cell(parts.folder)
    assert parts.read_record().status == "running" and parts.state() == "interrupted"
    assert run_cell(parts.folder) == 0
    assert parts.read_record().attempts == len(stops) + 1
    assert_equal_runs(whole, parts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_between_experiences(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    words = (f"strategy={strategy}", *OWN.get(strategy, ()))
    whole = make_cell(*words, name="whole")
    assert run_cell(whole.folder) == 0
    parts = make_cell(*words, name="parts")
    real = Run._experience
    for stop in (1, 2):

        def experience(self: Run, exp: Experience, stop: int = stop) -> None:
            if exp.index == stop:
                raise Stop
            real(self, exp)

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(Run, "_experience", experience)
            run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)


def test_stopped_between_an_experience_and_its_checkpoint(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_cell("strategy=replay", "checkpoint=2", name="whole")
    assert run_cell(whole.folder) == 0
    parts = make_cell("strategy=replay", "checkpoint=2", name="parts")

    def stop(*_: object) -> None:
        raise Stop

    for place in ((Run, "finish"), (session, "account")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, stop)
            with pytest.raises(Stop):
                run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)


def test_state_that_outlives_experiences(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("strategy=derpp", "optim.reset=never", "optim.momentum=0.9", "net.growing=true")
    whole = make_cell(*words, name="whole")
    assert run_cell(whole.folder) == 0
    parts = make_cell(*words, name="parts")
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(Stop):
            run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)


def test_same_config_and_seed_same_bytes(make_cell: MakeCell) -> None:
    a, b = (make_cell("strategy=er_ace", name=n) for n in "ab")
    assert run_cell(a.folder) == run_cell(b.folder) == 0
    assert_equal_runs(a, b)


def last_iteration(store: RunStore) -> int:
    found = [f.arrays["iteration"][-1] for f in frames(store.journal_path) if f.kind == "mark"]
    return int(found[-1]) if found else 0


def test_sigkill(make_cell: MakeCell) -> None:
    words = ("strategy=derpp", "epochs=40", "checkpoint=25", "net.name=cnn", "net.args.width=8")
    whole = make_cell(*words, name="whole")
    assert run_cell(whole.folder) == 0
    killed = make_cell(*words, name="killed")
    command = [sys.executable, "-m", "clframe", "cell", str(killed.folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with killed.log_path.open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while last_iteration(killed) < 100 and process.poll() is None:  # in mid-experience
        assert time.monotonic() < deadline, killed.log_path.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert killed.state() == "interrupted"
    assert 0 < last_iteration(killed) < whole.read_record().iteration
    assert run_cell(killed.folder) == 0
    assert_equal_runs(whole, killed)
