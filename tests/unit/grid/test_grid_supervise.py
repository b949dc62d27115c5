"""One supervised cell: every way it can end, what its folder then says, how it was started."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from clframe.grid import supervise as module
from clframe.grid import view
from clframe.grid.launch import Launch
from clframe.grid.supervise import Follower, Progress, held, supervise
from clframe.grid.view import deliver, owed
from clframe.tracking.journal import Journal
from clframe.tracking.store import RunRecord, RunStore

Cell = Callable[..., Path]
Faked = Callable[..., Launch]


@pytest.mark.parametrize(
    ("mode", "status", "rc", "attempts", "error"),
    [
        ("done", "done", 0, 1, None),
        ("fail", "failed", 1, 1, "ValueError: the loss is nan\nmore"),
        ("bad", "failed", 2, 1, "options.x: not possible"),
        ("mute", "failed", 1, 1, "ImportError: no module named x"),
        ("lie", "failed", 0, 1, "ended without finishing its run"),
        ("crash once", "done", 0, 2, None),
        ("crash", "failed", -9, 2, "killed by SIGKILL; perhaps memory ran out"),
    ],
)
def test_how_a_cell_ends(
    cell: Cell, faked: Faked, mode: str, status: str, rc: int, attempts: int, error: str | None
) -> None:
    folder = cell()
    outcome = supervise(folder, None, launch=faked(one=mode))
    assert outcome == ("one", status, rc, folder / "log.txt", attempts, error)
    record = RunStore(folder).read_record()
    assert (record.status, record.attempts, record.error) == (status, attempts, error)
    assert RunStore(folder).state() == status
    assert outcome.log_path.read_text().startswith("attempt 1 of one\n")


def test_a_record_is_there_before_the_cell_starts(cell: Cell, faked: Faked) -> None:
    folder = cell()
    supervise(folder, None, launch=faked())
    record = RunStore(folder).read_record()
    assert (record.id, record.grid) == ("one", "g") and record.started_ms > 1.7e12
    assert record.environment["python"] and set(record.git) == {"commit", "dirty"}
    assert not held(folder)


def test_a_second_start_goes_on_with_the_same_record(cell: Cell, faked: Faked) -> None:
    folder = cell()
    supervise(folder, None, launch=faked(one="fail"))
    started = RunStore(folder).read_record().started_ms
    outcome = supervise(folder, None, launch=faked())
    assert (outcome.status, outcome.attempts) == ("done", 2)
    assert RunStore(folder).read_record().started_ms == started


def test_the_environment_has_no_trace_of_a_cluster_job(
    cell: Cell, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = "SLURM_PROCID SLURM_NTASKS RANK LOCAL_RANK WORLD_SIZE NODE_RANK GROUP_RANK MASTER_ADDR"
    job += " LOCAL_WORLD_SIZE TORCHELASTIC_RUN_ID PMI_RANK OMPI_COMM_WORLD_RANK"
    for name in job.split():
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("KEPT", "yes")
    folder = cell("threads=2")
    supervise(folder, None, launch=faked())
    env = json.loads((folder / "environment.json").read_text())
    assert not set(job.split()) & set(env)
    assert env["KEPT"] == "yes" and env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "2"
    assert os.environ["RANK"] == "3"  # ours is untouched


def test_an_interrupted_supervisor_stops_its_cell(cell: Cell, faked: Faked) -> None:
    folder = cell()

    def interrupt(_: Progress) -> None:
        if (folder / "hangs").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise(folder, None, interrupt, launch=faked(one="hang"))
    assert RunStore(folder).state() == "interrupted" and not held(folder)
    assert supervise(folder, None, launch=faked()).status == "done"


def test_a_cell_has_one_supervisor_at_a_time(cell: Cell, faked: Faked) -> None:
    folder = cell()
    first: list[Any] = []
    thread = threading.Thread(
        target=lambda: first.append(supervise(folder, None, launch=faked(one="slow")))
    )
    thread.start()
    while not held(folder):
        time.sleep(0.01)
    assert supervise(folder, None, launch=faked()).status == "running"
    thread.join()
    assert first[0].status == "done" and first[0].attempts == 1


def test_a_cell_that_outlives_its_supervisor_is_waited_for(
    cell: Cell, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cell()
    store = RunStore(folder)
    store.write_record(RunRecord(id="one", grid="g", started_ms=1))
    code = "import sys; from clframe.tracking.store import RunStore\nwith RunStore(sys.argv[1])"
    code += ".heartbeat():\n    print('up', flush=True)\n    sys.stdin.read()"
    orphan = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert orphan.stdout is not None and orphan.stdout.readline() == b"up\n"
    monkeypatch.setattr(module, "ORPHAN", 0.3)
    assert supervise(folder, None, launch=faked()).status == "running"
    monkeypatch.setattr(module, "ORPHAN", 10.0)
    threading.Timer(0.3, orphan.kill).start()
    assert supervise(folder, None, launch=faked()).status == "done"
    orphan.communicate()


def test_progress_is_read_from_the_journal(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write_record(RunRecord(id="x", grid="g", started_ms=1, total_iterations=40))
    follow = Follower(tmp_path)
    assert follow() == (tmp_path.name, 0, 40)
    journal = Journal(store.journal_path)
    journal.append("metrics", iteration=np.arange(1, 8), keys=["a"], values=np.zeros((7, 1)))
    middle = journal.offset
    journal.append("mark", iteration=[9])
    assert follow().iteration == 9
    journal.close()
    again = Journal(store.journal_path, middle)  # a resumed cell goes back to its checkpoint
    assert follow().iteration == 7
    again.append("mark", iteration=[8])
    again.close()
    assert follow() == (tmp_path.name, 8, 40)


def store() -> Any:
    """Stands in for MLflow's store."""
    return "a store"


class Uploader:
    """Stands in for MLflow's; says what it was told."""

    told: ClassVar[list[tuple[str, str]]] = []
    answer: ClassVar[bool | Exception] = True

    def __init__(self, target: Any, folder: Path) -> None:
        self.folder = Path(folder)

    def push(self) -> int:
        self.told.append((self.folder.name, "push"))
        return self._answer()

    def finish(self, status: str) -> bool:
        self.told.append((self.folder.name, status))
        return self._answer()

    def _answer(self) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def uploader(monkeypatch: pytest.MonkeyPatch) -> type[Uploader]:
    import clframe.tracking.mlflow

    monkeypatch.setattr(clframe.tracking.mlflow, "RunUploader", Uploader)
    monkeypatch.setattr(Uploader, "told", [])
    return Uploader


@pytest.mark.parametrize(
    ("mode", "ending"), [("done", "done"), ("fail", "failed"), ("crash", "failed")]
)
def test_mlflow_hears_how_it_ended(
    cell: Cell, faked: Faked, uploader: type[Uploader], mode: str, ending: str
) -> None:
    folder = cell()
    supervise(folder, store, launch=faked(one=mode))
    assert uploader.told[-1] == ("one", ending) and not owed(folder)


def test_pushes_happen_while_the_cell_runs(
    cell: Cell, faked: Faked, uploader: type[Uploader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "PUSH", 0.1)
    folder = cell()
    RunStore(folder).journal_path.touch()  # the cell has begun
    supervise(folder, store, launch=faked(one="slow"))
    assert uploader.told.count(("one", "push")) >= 2


@pytest.mark.parametrize("answer", [False, RuntimeError("broken")])
def test_trouble_with_mlflow_never_fails_a_cell(
    cell: Cell,
    faked: Faked,
    uploader: type[Uploader],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: bool | Exception,
) -> None:
    monkeypatch.setattr(uploader, "answer", answer)
    monkeypatch.setattr(view, "PUSH", 0.0)
    folder = cell()
    with caplog.at_level(logging.WARNING):
        assert supervise(folder, store, launch=faked()).status == "done"
    assert owed(folder) and ("broken" in caplog.text) == isinstance(answer, Exception)
    monkeypatch.setattr(uploader, "answer", True)
    assert deliver(folder, store) and not owed(folder)


def test_nothing_is_owed_when_nothing_is_tracked(cell: Cell, faked: Faked) -> None:
    folder = cell()
    supervise(folder, None, launch=faked())
    assert not owed(folder) and deliver(folder, None)
