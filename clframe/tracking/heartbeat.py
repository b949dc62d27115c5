"""The sign of life of a running cell, and how to tell a living cell from a killed one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clframe.tracking.files import replace_file, to_json

STALE_SECONDS = 60.0


@contextmanager
def heartbeat(path: Path, every: float = 5.0) -> Iterator[None]:
    """Keep `path` fresh from a daemon thread; it exists on entry and is gone on a normal exit."""
    own = to_json(_self())
    replace_file(path, own)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every):
            try:
                replace_file(path, own)
            except OSError:  # a full disk or a moved folder must not end the training
                continue

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def is_alive(path: Path) -> bool:
    """Does the process that wrote the heartbeat at `path` still run?

    On this machine its pid decides, together with its start time since pids are reused. From
    another machine or container only the age of the file can tell.
    """
    try:
        beat = json.loads(path.read_text())
        fresh = time.time() - path.stat().st_mtime < STALE_SECONDS
    except (OSError, ValueError):
        return False
    if not isinstance(beat, dict):
        return False
    here = _self()
    if beat.get("host") != here["host"] or beat.get("space", here["space"]) != here["space"]:
        return fresh
    pid, started = beat.get("pid"), beat.get("started")
    if not isinstance(pid, int) or not _runs(pid):
        return False
    return _start_ticks(pid) == started if started is not None else fresh


def _self() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "space": _pid_space(),
        "pid": pid,
        "started": _start_ticks(pid),
    }


def _pid_space() -> str:
    """What a pid is unique in: this boot of the machine and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; empty where there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _start_ticks(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else None


def _runs(pid: int) -> bool:
    """A zombie, killed but not yet reaped by its parent, does not run."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _stat(pid)[:1] not in (["Z"], ["X"])
