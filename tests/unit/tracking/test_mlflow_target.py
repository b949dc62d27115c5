"""Making the store: once, in the right place, and safe on any disk."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clframe.errors import ConfigError
from clframe.tracking.mlflow import RunUploader, Target, find_runs, prepare
from clframe.tracking.mlflow import target as module
from clframe.tracking.mlflow.target import client, filesystem


def journal_mode(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _prepare_beside_others(runs: Path, gate: Any, results: Any) -> None:
    try:
        gate.wait()
        results.put(prepare(runs, None, "clframe"))
    except BaseException as error:
        results.put(repr(error))


# -- traps 1 and 2 -------------------------------------------------------------------------------


def test_four_processes_may_open_one_new_store_at_once(tmp_path: Path) -> None:
    client(f"sqlite:///{tmp_path / 'warm.db'}")  # imports done here, so that the four do collide
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(4), fork.Queue()
    workers = [
        fork.Process(target=_prepare_beside_others, args=(tmp_path / "runs", gate, results))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [Target(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", found[0][1])] * 4


def test_artifacts_lie_beside_the_store_wherever_a_worker_stands(
    target: Target, cell: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert RunUploader(target, cell.store.folder).finish("done")
    experiment = client(target.uri).get_experiment(target.experiment_id)
    assert experiment.artifact_location == str(runs / "artifacts")
    (run_id,) = find_runs(target, "grid").values()
    assert (runs / "artifacts" / run_id / "artifacts" / "config.yaml").is_file()
    assert list(elsewhere.iterdir()) == []


def test_a_relative_place_becomes_absolute(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, uri in (("runs", None), ("own", "sqlite:///own/mlflow.db")):
        (tmp_path / name).mkdir()
        shutil.copyfile(template, tmp_path / name / "mlflow.db")
        made = prepare(Path("runs"), uri, "clframe")
        assert made.uri == f"sqlite:///{tmp_path / name / 'mlflow.db'}"
        location = client(made.uri).get_experiment(made.experiment_id).artifact_location
        assert location == str(tmp_path / name / "artifacts")


def test_preparing_again_changes_nothing(target: Target, runs: Path) -> None:
    assert prepare(runs, None, "clframe") == target
    assert prepare(runs, target.uri, "clframe") == target
    assert prepare(runs, None, "another").experiment_id != target.experiment_id


def test_an_experiment_in_the_bin_is_taken_out(target: Target, runs: Path) -> None:
    client(target.uri).delete_experiment(target.experiment_id)
    assert prepare(runs, None, "clframe") == target
    experiment = client(target.uri).get_experiment(target.experiment_id)
    assert experiment.lifecycle_stage == "active"


def test_a_store_of_an_older_mlflow_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    engine, config = utils.create_sqlalchemy_engine(uri), utils._get_alembic_config(uri)
    Base.metadata.create_all(engine)
    head = ScriptDirectory.from_config(config).get_revision("head")
    assert head is not None and isinstance(head.down_revision, str)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, head.down_revision)
    engine.dispose()
    # as when no table is missing: MLflow then refuses such a store instead of mending it
    monkeypatch.setattr(utils, "_all_tables_exist", lambda engine: True)
    with pytest.raises(MlflowException, match="out-of-date database schema"):
        client(uri)
    made = prepare(tmp_path, None, "clframe")
    assert client(made.uri).get_experiment(made.experiment_id).name == "clframe"
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [(head.revision,)]


def test_a_store_that_a_kill_left_half_made_is_made_again(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(uri: str) -> None:
        with sqlite3.connect(uri.partition(":///")[2]) as connection:
            connection.execute("CREATE TABLE experiments (id)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "migrate", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, None, "clframe")

    def made(uri: str) -> None:
        path = Path(uri.partition(":///")[2])
        assert not path.exists()
        shutil.copyfile(template, path)

    monkeypatch.setattr(module, "migrate", made)
    assert prepare(tmp_path, None, "clframe").experiment_id
    assert not (tmp_path / "mlflow.new").exists()


# -- trap 12 -------------------------------------------------------------------------------------

MOUNTS = """\
rootfs / rootfs rw 0 0
server:/export {tmp}/net nfs4 rw 0 0
tmpfs {tmp}/net/fast tmpfs rw 0 0
mds@tcp:/fs {tmp}/with\\040space lustre rw 0 0
odd {tmp}/odd fuse.sshfs rw 0 0
/dev/vda1 / ext4 rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS.format(tmp=tmp_path))
    monkeypatch.setattr(module, "MOUNTS", table)
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("here", "ext4"), ("net", "nfs4"), ("net/runs", "nfs4"), ("net/fast/runs", "tmpfs"),
        ("network", "ext4"), ("with space/runs", "lustre"), ("odd", "fuse.sshfs"),
    ],
)  # fmt: skip
def test_the_filesystem_is_that_of_the_nearest_mount(mounts: Path, folder: str, kind: str) -> None:
    assert filesystem(mounts / folder) == kind


def test_a_link_leads_to_the_filesystem_behind_it(mounts: Path) -> None:
    (mounts / "net").mkdir()
    (mounts / "runs").symlink_to(mounts / "net")
    assert filesystem(mounts / "runs") == "nfs4"


@pytest.mark.parametrize(
    ("folder", "mode"), [("here", "wal"), ("net", "delete"), ("net/fast", "wal"), ("odd", "delete")]
)
def test_no_write_ahead_log_on_a_network_filesystem(
    mounts: Path, template: Path, folder: str, mode: str
) -> None:
    for before in ("delete", "wal"):  # also a store that was carried there from a local disk
        runs = mounts / folder / before
        runs.mkdir(parents=True)
        shutil.copyfile(template, runs / "mlflow.db")
        with sqlite3.connect(runs / "mlflow.db") as connection:
            connection.execute(f"PRAGMA journal_mode={before}")
        connection.close()
        prepare(runs, None, "clframe")
        assert journal_mode(runs / "mlflow.db") == mode


def test_without_a_mount_table_nothing_is_risked(
    template: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "none")
    runs.mkdir()
    shutil.copyfile(template, runs / "mlflow.db")
    prepare(runs, None, "clframe")
    assert journal_mode(runs / "mlflow.db") == "delete"


# -- other stores, and bad ones ------------------------------------------------------------------


def test_a_server_keeps_its_own_places(server: Any, runs: Path) -> None:
    address = server.start()
    remote = prepare(runs, address, "through the server")
    assert remote.uri == address
    location = client(address).get_experiment(remote.experiment_id).artifact_location
    assert location.startswith("mlflow-artifacts:/")


def test_a_database_without_a_server_gets_absolute_places_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Opened:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str, artifact_location: str) -> str:
            made.append(artifact_location)
            return "5"

    monkeypatch.setattr(module, "_open", lambda uri, ours: made.append(ours) or Opened())
    monkeypatch.chdir(tmp_path)
    uri = "postgresql://host/db"
    assert prepare(Path("runs"), uri, "clframe") == Target(uri, "5")
    assert made == [False, str(tmp_path / "runs" / "artifacts")]


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://me:secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("file:./mlruns", "file:./mlruns"),
        ("nonsense://x", "nonsense://x"),
        ("postgresql+nodriver://me:secret@127.0.0.1:9/db", "postgresql+nodriver://127.0.0.1:9/db"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, told: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path / "runs", uri, "clframe")
    message = str(caught.value)
    assert told in message and "secret" not in message and "\n" not in message
    assert "track.enabled=false" in message and str(tmp_path / "runs" / "mlflow.db") in message


def test_a_store_in_memory_is_refused(tmp_path: Path) -> None:
    for uri in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ConfigError, match="names no file"):
            prepare(tmp_path, uri, "clframe")


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 500)
    with pytest.raises(ConfigError, match="not a database"):
        prepare(tmp_path, None, "clframe")


def test_nothing_is_printed_and_no_request_waits_for_minutes(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from clframe.tracking.mlflow import *\n"
        "from clframe.tracking.store import *\n"
        "from clframe.tracking.mlflow.target import faults; faults()\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
        "t = prepare(Path(sys.argv[1]), None, 'x'); f = Path(sys.argv[1], 'g', 'a-b-s0-c')\n"
        "RunStore(f).write_record(RunRecord(id=f.name, grid='g', started_ms=1))\n"
        "assert RunUploader(t, f).finish('done')\n"
        "assert upload_report(t, 'g', {}, {}, {}, '')\n"
        "from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as r\n"
        "assert r.get() == 2, r.get()\n"
    )
    told = ("MLFLOW_", "PYTEST_", "CI", "GITHUB_", "DO_NOT_TRACK")  # what else would silence it
    environment = {k: v for k, v in os.environ.items() if not k.startswith(told)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, tmp_path / "runs"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
