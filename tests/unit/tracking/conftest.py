"""A run's folder with a journal, and an MLflow store copied from one that was made once."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clframe.tracking.journal import Journal
from clframe.tracking.mlflow import Target, find_runs, prepare
from clframe.tracking.mlflow.target import client
from clframe.tracking.store import RunRecord, RunStore

os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")

STARTED = 1_700_000_000_000
Points = list[tuple[int, int, float]]


class Cell:
    """A run that writes its journal step by step, as a training cell would."""

    keys = ("acc/exp_00", "acc/exp_01", "loss/new")

    def __init__(self, folder: Path) -> None:
        self.store = RunStore(folder)
        self.store.write_config(
            {"strategy": "replay", "scenario": "blobs", "seed": 3, "optim": {"lr": 0.5}}
        )
        self.store.write_record(
            RunRecord(id=folder.name, grid=folder.parent.name, started_ms=STARTED)
        )
        self.journal = Journal(self.store.journal_path)
        self.iteration = 0

    def train(self, iterations: int, block: int = 50) -> None:
        """Append that many iterations, in frames of `block`; values depend on nothing else."""
        stop = self.iteration + iterations
        while self.iteration < stop:
            steps = np.arange(self.iteration, min(self.iteration + block, stop))
            values = np.stack([steps / 7 + k for k in range(len(self.keys))], axis=1)
            self.journal.append("metrics", keys=self.keys, iteration=steps, values=values)
            self.iteration = int(steps[-1]) + 1

    def mark(self) -> int:
        """A checkpoint; returns the offset it resumes from."""
        offset = self.journal.offset
        self.journal.append("mark", iteration=[self.iteration])
        return offset

    def expected(self, iterations: int, column: int = 0) -> Points:
        """What the store must hold of one key after so many iterations."""
        return [(i, i, i / 7 + column) for i in range(iterations)]

    def run(self, target: Target) -> Any:
        """The one MLflow run of this cell's grid."""
        (run_id,) = find_runs(target, "grid").values()
        return client(target.uri).get_run(run_id)

    def resume(self, offset: int, iteration: int) -> None:
        self.journal.close()
        self.journal = Journal(self.store.journal_path, resume_at=offset)
        self.iteration = iteration


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder, with a space in its name as users have them."""
    return tmp_path / "my runs"


@pytest.fixture
def store(runs: Path) -> RunStore:
    """A run that has begun and measured nothing yet."""
    store = RunStore(runs / "grid" / "blobs-replay-s0-00ff00ff")
    store.write_record(RunRecord(id=store.folder.name, grid="grid", started_ms=5))
    return store


@pytest.fixture
def cell(runs: Path) -> Cell:
    return Cell(runs / "grid" / "blobs-replay-s3-0123abcd")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database; making one takes seconds, copying it none."""
    runs = tmp_path_factory.mktemp("template")
    prepare(runs, None, "template")
    with closing(sqlite3.connect(runs / "mlflow.db")) as connection:
        connection.execute(f"VACUUM INTO '{runs / 'copy.db'}'")  # with what is still in its log
    return runs / "copy.db"


@pytest.fixture
def target(template: Path, runs: Path) -> Target:
    """A store of this test's own, as `prepare` leaves it."""
    runs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template, runs / "mlflow.db")
    return prepare(runs, None, "clframe")


@pytest.fixture
def history(target: Target) -> Callable[..., Points]:
    """(step, ms since the start, value) of a metric of a run, in the order of steps."""

    def read(key: str, run_id: str | None = None) -> Points:
        run_id = run_id or next(iter(find_runs(target, "grid").values()))
        points = client(target.uri).get_metric_history(run_id, key)
        return sorted((p.step, p.timestamp - STARTED, p.value) for p in points)

    return read


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of points of every request."""
    from mlflow import MlflowClient

    real, sizes = MlflowClient.log_batch, []

    def counted(self: Any, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        sizes.append(len(metrics))
        return real(self, run_id, metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    return sizes


@pytest.fixture
def server(target: Target, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow's own web application over `target`, which a test may stop and start."""
    import threading

    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", target.uri)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(runs / "served"))
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow.server import app, handlers
    from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

    monkeypatch.setattr(handlers, "_tracking_store", None)  # of an earlier test
    monkeypatch.setattr(handlers, "_artifact_repo", None)

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            return

    class Server:
        running: BaseWSGIServer | None = None
        port = 0

        def start(self) -> str:
            self.running = make_server("127.0.0.1", self.port, app, True, request_handler=Quiet)
            self.port = self.running.port
            threading.Thread(target=self.running.serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{self.port}"

        def stop(self) -> None:
            if self.running:
                self.running.shutdown()
                self.running.server_close()
                self.running = None

    server = Server()
    yield server
    server.stop()
