"""One cell from start to end: launched, followed, resumed once if killed, shown in MLflow."""

from __future__ import annotations

import fcntl
import functools
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from clframe.config.identity import from_yaml
from clframe.config.schema import RunConfig
from clframe.grid.launch import Handle, Launch, environment, fork, stop
from clframe.grid.team import outside, team
from clframe.grid.view import Ending, Find, View
from clframe.ranks import LOST
from clframe.registry.search import PACKAGE
from clframe.tracking.store import RunRecord, RunStore, git_state
from clframe.tracking.store import environment as platform_facts

POLL, LOOK = 0.05, 0.25  # seconds between looks at the process, and at its journal
ORPHAN = 10.0  # how long a cell may take to notice that its supervisor died
LOCK = ".supervisor.lock"
BAD_INPUT = 2  # exit code of a cell that could not begin

Status = Literal["done", "failed", "interrupted", "running"]


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
Attending = Generator[bool, None, CellOutcome]  # yields whether the cell still runs


def quiet(_: Progress) -> None:
    """For those who do not watch."""


def supervise(
    folder: Path,
    find: Find | None,
    on_progress: OnProgress = quiet,
    *,
    launch: Launch | None = None,
    retries: int = 1,
) -> CellOutcome:
    """Run the cell in `folder` to its end, and wait for it; see `attend`."""
    attending = attend(folder, find, on_progress, launch=launch, retries=retries)
    try:
        while True:
            next(attending)
            time.sleep(POLL)
    except StopIteration as end:
        outcome: CellOutcome = end.value
        return outcome
    finally:
        attending.close()


def attend(
    folder: Path,
    find: Find | None,
    on_progress: OnProgress = quiet,
    *,
    launch: Launch | None = None,
    retries: int = 1,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Attending:
    """Run the cell in `folder` to its end; one that is killed is resumed `retries` times.

    Its record says how it ended, also when the cell could not say so itself. A store that does not
    answer (`find`) never fails a cell: what is owed stays marked in the folder. `extra` goes into
    the cell's environment.
    """
    store = RunStore(folder)
    with _alone(folder) as free:
        if not free or (yield from _lives_on(store)):
            return _outcome(store, "running", None)
        cfg = from_yaml(store.config_path)
        if outside(cfg):
            retries = 0  # whoever started the ranks starts them again
        start = launcher(cfg, launch)
        begin(store)
        view = View(find, folder)
        rc: int | None = None
        status: Ending = "interrupted"
        try:
            try:
                for _ in range(1 + retries):
                    if retries:
                        store.notes()  # of an earlier start
                    handle = start(folder, environment(cfg.threads) | dict(extra), store.log_path)
                    rc = yield from _follow(handle, store, view, on_progress)
                    if rc >= 0:
                        break
                assert rc is not None
                status = _settle(store, rc, getattr(handle, "failed", None))
            except BaseException:
                _stopped(store)
                raise
            yield False
        finally:
            if rc == BAD_INPUT:
                view.drop()  # nothing has begun that could be shown
            else:
                view.finish(status)
    return _outcome(store, status, rc)


def launcher(cfg: RunConfig, launch: Launch | None = None) -> Launch:
    """How to start a cell, or all of its ranks: forked, or as `launch` says."""
    launch = launch or fork
    return team(cfg, launch) if cfg.world > 1 else launch


def held(folder: Path) -> bool:
    """Whether a supervisor, here or in another terminal, has this cell in hand."""
    if not (folder / LOCK).exists():
        return False
    with _alone(folder) as free:
        return not free


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


def _follow(
    handle: Handle, store: RunStore, view: View, on_progress: OnProgress
) -> Generator[bool, None, int]:
    """Follow a cell until it ends; end it when we are told to."""
    follow = Follower(store.folder)
    looked = 0.0
    try:
        while (code := handle.poll()) is None:
            if time.monotonic() - looked >= LOOK:
                on_progress(follow())
                looked = time.monotonic()
            view.push()
            yield True
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


def _settle(store: RunStore, rc: int, rank: int | None = None) -> Ending:
    """The final status of an ended cell, where it could not write that; `rank` ended with `rc`."""
    record, notes = store.read_record(), store.notes()
    if rc == 0 and record.status == "done":
        return "done"
    silent = bool(notes) and rc not in (LOST, BAD_INPUT)  # only others have said something
    if notes and (rc == LOST or not notes[0]["lost"]):
        store.update_record(status="failed", error=_said(notes))
    elif record.status != "failed" or rc < 0 or silent:
        store.update_record(status="failed", error=_reason(store, rc, rank, silent))
    if rc != BAD_INPUT:
        store.update_record(iteration=Follower(store.folder)().iteration)
    return "failed"


def _stopped(store: RunStore) -> None:
    """Write down that the cell was stopped, and why: perhaps since one of its ranks had failed."""
    notes = [note for note in store.notes() if not note["lost"]]
    error = _said(notes) if notes else "stopped before its end"
    at = Follower(store.folder)().iteration
    store.update_record(status="interrupted", error=error, iteration=at)


def _said(notes: list[dict[str, Any]]) -> str:
    """The failure that the other ranks' failures followed from; or where each of them waited."""
    first = notes[0]
    if first["lost"]:
        return "; ".join(note["error"] for note in notes)
    return f"rank {first['rank']}: {first['error']}" if first["rank"] else str(first["error"])


def _reason(store: RunStore, rc: int, rank: int | None, silent: bool) -> str:
    who = "" if rank is None else f"rank {rank} was "
    if rc < 0:
        name = signal.Signals(-rc).name
        hint = "; perhaps memory ran out" if name == "SIGKILL" else ""
        return f"{who}killed by {name}{hint}"
    if rc == 0:
        return "ended without finishing its run"
    if silent and rank is not None:
        return f"rank {rank} ended with exit code {rc}, without a word"
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


def _lives_on(store: RunStore) -> Generator[bool, None, bool]:
    """Whether a cell runs although nobody supervises it; one whose supervisor died soon ends."""
    deadline = time.monotonic() + ORPHAN
    while store.state() == "running":
        if time.monotonic() > deadline:
            return True
        yield True
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
