"""The MLflow store that runs are shown in: made once, before any worker looks at it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clframe.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

MOUNTS = Path("/proc/mounts")
LOCAL_FILESYSTEMS = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"),
    *("tmpfs", "ramfs", "overlay", "aufs", "fuseblk", "vfat", "exfat", "ntfs3"),
}
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its own 7 block for four minutes; we retry later
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout's last line is the run's folder
}


class Target(NamedTuple):
    """Where runs go: a tracking URI that any process can use, and an experiment in it."""

    uri: str
    experiment_id: str


def prepare(
    runs: Path,
    uri: str | None,
    experiment: str,
    draft: Callable[[], Path | None] = lambda: None,
) -> Target:
    """Create and migrate the store and the experiment, alone, whatever else starts beside us.

    Without `uri` that is `runs`/mlflow.db, and `runs`/artifacts. Any store without a server gets
    absolute places, since its users have other working folders. A new database is a copy of
    `draft()`, if that is one.
    """
    runs = Path(runs).resolve()
    database = database_of(runs, uri)
    uri = uri or f"sqlite:///{database}"
    home = database.parent if database else runs
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked((database or runs / "mlflow.db").with_suffix(".lock")):
            if database:
                uri = f"sqlite:///{database}"
                _create(database, draft)
                _set_journal_mode(database)
            opened = _open(uri, ours=database is not None)
            artifacts = None if uri.startswith(("http:", "https:")) else str(home / "artifacts")
            return Target(uri, _experiment(opened, experiment, artifacts))
    except (*faults(), *_setup_faults()) as error:
        raise ConfigError(
            f"track.uri = {_public(uri)!r}: this MLflow store cannot be used: "
            f"{_public(str(error)).splitlines()[0].rstrip('.')}. Start its server, or leave "
            f"track.uri out to use {runs / 'mlflow.db'}, or set track.enabled=false"
        ) from error


def client(uri: str) -> MlflowClient:
    """A client for `uri` that neither chats nor waits long."""
    _quieten()
    from mlflow import MlflowClient

    return MlflowClient(uri)


def hush() -> None:
    """Make sure that MLflow keeps silent when it is imported, its telemetry too."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, level in (("alembic", "WARNING"), ("mlflow", "WARNING"), ("urllib3", "ERROR")):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)


def _quieten() -> None:
    """Import MLflow so that it keeps silent."""
    hush()
    import mlflow  # noqa: F401

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # which its import has set to INFO


def faults() -> tuple[type[Exception], ...]:
    """What a store that is away, busy or broken raises."""
    _quieten()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError  # requests' own errors are OSErrors


def search(opened: MlflowClient, target: Target, **tags: str) -> Iterator[Run]:
    """The active runs with these `cl.` tags, oldest first."""
    clauses = []
    for name, value in tags.items():
        quote = '"' if "'" in value else "'"
        clauses.append(f"tags.`cl.{name}` = {quote}{value}{quote}")
    token = None
    while True:
        page = opened.search_runs(
            [target.experiment_id],
            " and ".join(clauses),
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def find_runs(target: Target, grid: str) -> dict[str, str]:
    """The run of each cell of a grid, by cell key; empty when the store does not answer."""
    found: dict[str, str] = {}
    try:
        for run in search(client(target.uri), target, kind="cell", grid=grid):
            found.setdefault(run.data.tags["cl.cell_key"], run.info.run_id)
    except faults() as error:
        log.warning("MLflow does not answer, so no links to its runs: %s", error)
    return found


def filesystem(path: Path) -> str:
    """The type of the file system that holds `path`; empty where the system does not say."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        _, mount, name, *_ = line.split()
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount)
        if len(mount) >= best and path.resolve().is_relative_to(mount):
            best, kind = len(mount), name
    return kind


def _set_journal_mode(database: Path) -> None:
    """Write-ahead logging, ten times fewer disk waits; never over a network, where it corrupts."""
    kind = filesystem(database.parent)
    mode = "WAL" if kind in LOCAL_FILESYSTEMS else "DELETE"
    if mode == "DELETE":
        log.info("%s lies on %s: using SQLite's rollback journal", database, kind or "an unknown")
    with (
        suppress(sqlite3.OperationalError),  # in use right now: it keeps the mode that it has
        closing(sqlite3.connect(database, timeout=20)) as connection,
    ):
        connection.execute(f"PRAGMA journal_mode={mode}")


def _open(uri: str, *, ours: bool) -> MlflowClient:
    """A client; a database of ours from an older MLflow is brought up to date first."""
    try:
        return client(uri)
    except faults() as error:
        if not ours or "out-of-date database schema" not in str(error):
            raise
    migrate(uri)
    return client(uri)


def _create(database: Path, draft: Callable[[], Path | None]) -> None:
    """Make a new database beside its place: one that a kill left half made could not be mended."""
    if database.exists() and database.stat().st_size:
        return
    half = database.with_suffix(".new")
    half.unlink(missing_ok=True)
    made = draft()
    if made:
        shutil.copyfile(made, half)
    else:
        migrate(f"sqlite:///{half}")
    os.replace(half, database)


def migrate(uri: str) -> None:
    """What `mlflow db upgrade` does, also to an empty database."""
    _quieten()
    from mlflow.db import upgrade

    assert upgrade.callback is not None
    upgrade.callback(uri)


def _experiment(opened: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of the experiment `name`: found, taken out of the bin, or created."""
    found = opened.get_experiment_by_name(name)
    if found is None:
        return str(opened.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        opened.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _setup_faults() -> tuple[type[Exception], ...]:
    from alembic.util import CommandError

    return CommandError, sqlite3.Error, ImportError  # the last: no driver for this database


def database_of(runs: Path, uri: str | None) -> Path | None:
    """The absolute path of an SQLite store, such as the one without `uri`; None for any other."""
    if not uri:
        return runs.resolve() / "mlflow.db"
    if not uri.startswith("sqlite:"):
        return None
    name = uri.partition(":///")[2]
    if not name or name == ":memory:":
        raise ConfigError(
            f"track.uri = {uri!r} names no file, and a store in memory dies with its process. "
            "Write sqlite:////absolute/path/mlflow.db, or leave track.uri out"
        )
    return Path(name).resolve()


def _public(text: str) -> str:
    """`text` without the user and password of a URI."""
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
