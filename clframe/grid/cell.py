"""What a cell's own process does before and around its run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path

LEASH = "CLFRAME_LEASH"  # the descriptor whose end says that the supervisor is gone


def run(folder: Path) -> int:
    """Run the cell in `folder`; returns its exit code. The process dies with its supervisor."""
    _watch_supervisor()
    import clframe.engine.preload  # noqa: F401 - in a fork, the server has done that
    from clframe.engine.run import run_cell

    return run_cell(folder)


def forked(folder: Path, here: Path, environment: dict[str, str], log: Path) -> None:
    """Entry of a forked cell: make it as separate as a program of its own, then run it."""
    enter(here, environment, log)
    sys.argv = ["clframe", "cell", str(folder)]
    code = run(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def enter(here: Path, environment: dict[str, str], log: Path) -> None:
    """Give this process its own session, environment, folder and log."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(here)


def _watch_supervisor() -> None:
    """End this process and its helpers when the supervisor dies; the next one resumes the run."""
    parent = multiprocessing.parent_process()
    given = os.environ.pop(LEASH, None)
    end = parent.sentinel if parent is not None else int(given) if given else None
    if end is None or os.getpgrp() != os.getpid():
        return  # started by hand, or a helper of a cell that is itself watched

    def watch() -> None:
        wait([end])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()
