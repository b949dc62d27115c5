"""One cell from start to end: launched, followed, resumed once if killed, shown in MLflow."""

from __future__ import annotations

import fcntl
import functools
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from clframe.config.identity import from_yaml
from clframe.grid.launch import Handle, Launch, environment, launcher, stop
from clframe.registry.search import PACKAGE
from clframe.tracking.store import RunRecord, RunStore, git_state
from clframe.tracking.store import environment as platform_facts

if TYPE_CHECKING:
    from clframe.tracking.mlflow import Target

log = logging.getLogger(__name__)

POLL, LOOK, PUSH = 0.05, 0.25, 2.0  # seconds between looks at the process, its journal, MLflow
ORPHAN = 10.0  # how long a cell may take to notice that its supervisor died
LOCK, UPLOAD = ".supervisor.lock", ".upload-pending"

Status = Literal["done", "failed", "interrupted", "running"]
Ending = Literal["done", "failed", "interrupted"]


class CellOutcome(NamedTuple):
    """How one cell ended. `rc` is its exit code; "running" means that someone else runs it."""

    key: str
    status: Status
    rc: int | None
    log_path: Path
    attempts: int
    error: str | None = None


class Progress(NamedTuple):
    """How far a running cell has come, in updates; `total` may be an estimate, or 0 at first."""

    key: str
    iteration: int
    total: int


OnProgress = Callable[[Progress], None]


def quiet(_: Progress) -> None:
    """For those who do not watch."""


def supervise(
    folder: Path,
    target: Target | None,
    on_progress: OnProgress = quiet,
    *,
    launch: Launch | None = None,
    retries: int = 1,
) -> CellOutcome:
    """Run the cell in `folder` to its end; one that is killed is resumed `retries` times.

    Its record says how it ended, also when the cell could not say so itself. A store that does not
    answer (`target`) never fails a cell: what is owed stays marked in the folder.
    """
    store = RunStore(folder)
    with _alone(folder) as free:
        if not free or _lives_on(store):
            return _outcome(store, "running", None)
        cfg = from_yaml(store.config_path)
        launch = launch or launcher(cfg.devices)
        begin(store)
        view = View(target, folder)
        rc: int | None = None
        status: Ending = "interrupted"
        try:
            for _ in range(1 + retries):
                handle = launch(folder, environment(cfg.threads), store.log_path)
                rc = _attend(handle, store, view, on_progress)
                if rc >= 0:
                    break
            assert rc is not None
            status = _settle(store, rc)
        except BaseException:
            store.update_record(status="interrupted", error="stopped before its end")
            raise
        finally:
            view.finish(status)
    return _outcome(store, status, rc)


def deliver(folder: Path, target: Target | None) -> bool:
    """Send a finished run to MLflow again, after its numbers changed or the store was away."""
    status = RunStore(folder).read_record().status
    return status == "running" or View(target, folder).finish(status)


def owed(folder: Path) -> bool:
    """Whether MLflow has not yet taken all of this run."""
    return (folder / UPLOAD).exists()


def held(folder: Path) -> bool:
    """Whether a supervisor, here or in another terminal, has this cell in hand."""
    if not (folder / LOCK).exists():
        return False
    with _alone(folder) as free:
        return not free


class View:
    """The run as MLflow shows it. Whatever goes wrong there is a warning."""

    def __init__(self, target: Target | None, folder: Path) -> None:
        self.folder = folder
        self.pending = folder / UPLOAD
        self.uploader = None
        self.pushed = time.monotonic()
        if target is not None:
            from clframe.tracking.mlflow import RunUploader

            self.pending.touch()
            self.uploader = RunUploader(target, folder)

    def push(self) -> None:
        if self.uploader is None or time.monotonic() - self.pushed < PUSH:
            return
        try:
            self.uploader.push()
        except Exception as error:  # no view of a run is worth the run
            self._warn(error)
        self.pushed = time.monotonic()

    def finish(self, status: Ending) -> bool:
        if self.uploader is None:
            return True
        try:
            taken = self.uploader.finish(status)
        except Exception as error:
            self._warn(error)
            return False
        if taken:
            self.pending.unlink(missing_ok=True)
        return taken

    def _warn(self, error: Exception) -> None:
        log.warning("%s is not shown in MLflow: %s", self.folder.name, error)


def begin(store: RunStore) -> None:
    if store.state() == "missing":
        now = int(time.time() * 1000)
        facts, git = _surroundings()
        store.write_record(
            RunRecord(
                id=store.folder.name,
                grid=store.folder.resolve().parent.name,
                started_ms=now,
                environment=facts,
                git=git,
            )
        )


@functools.cache
def _surroundings() -> tuple[dict[str, object], dict[str, object]]:
    here = git_state(Path.cwd())
    return platform_facts(), here if here["commit"] else git_state(PACKAGE)


def _attend(handle: Handle, store: RunStore, view: View, on_progress: OnProgress) -> int:
    """Follow a cell until it ends; end it when we are told to."""
    follow = Follower(store.folder)
    looked = 0.0
    try:
        while (code := handle.poll()) is None:
            if time.monotonic() - looked >= LOOK:
                on_progress(follow())
                looked = time.monotonic()
            view.push()
            time.sleep(POLL)
    except BaseException:
        stop(handle)
        raise
    on_progress(follow())
    return code


class Follower:
    """Reads how far a cell has come from what it writes."""

    def __init__(self, folder: Path) -> None:
        self.store = RunStore(folder)
        self.offset = self.iteration = self.total = 0
        self.read: tuple[int, int] | None = None

    def __call__(self) -> Progress:
        from clframe.tracking.journal import frames  # numpy: not before the server has started

        journal = self.store.journal_path
        if journal.exists() and journal.stat().st_size < self.offset:
            self.offset = 0  # a resumed cell has cut off what it will write again
        last = None
        for last in frames(journal, self.offset):
            self.offset = last.end
        steps = last.arrays.get("iteration") if last is not None else None
        if steps is not None and len(steps):
            self.iteration = int(steps[-1])
        self._look_at_record()
        return Progress(self.store.folder.name, self.iteration, self.total)

    def _look_at_record(self) -> None:
        """The total, where the record is another file than last time: on long streams it is big."""
        try:
            about = self.store.record_path.stat()
        except FileNotFoundError:
            return
        if self.read != (about.st_ino, about.st_mtime_ns):
            self.read = about.st_ino, about.st_mtime_ns
            self.total = self.store.read_record().total_iterations


def _settle(store: RunStore, rc: int) -> Ending:
    """The final status of an ended cell, written down where it could not do so itself."""
    record = store.read_record()
    if rc == 0 and record.status == "done":
        return "done"
    if record.status != "failed" or rc < 0:
        store.update_record(status="failed", error=_reason(store, rc))
    return "failed"


def _reason(store: RunStore, rc: int) -> str:
    if rc < 0:
        name = signal.Signals(-rc).name
        hint = "; perhaps memory ran out" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    if rc == 0:
        return "ended without finishing its run"
    return last_line(store.log_path) or f"exit code {rc}"


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _outcome(store: RunStore, status: Status, rc: int | None) -> CellOutcome:
    attempts, error = 0, None
    if store.record_path.exists():
        record = store.read_record()
        attempts, error = record.attempts, record.error
    return CellOutcome(store.folder.name, status, rc, store.log_path, attempts, error)


def _lives_on(store: RunStore) -> bool:
    """Whether a cell runs although nobody supervises it; one whose supervisor died soon ends."""
    deadline = time.monotonic() + ORPHAN
    while store.state() == "running":
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False when another supervisor holds it."""
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
