"""Starting a cell: a new program, or a fork of a server that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from clframe.errors import PluginError
from clframe.grid import cell

PRELOAD = "clframe.engine.preload"
PREFIXES = ("SLURM_", "MASTER_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_")
RANKS = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}


Answer = TypeVar("Answer")


class Handle(Protocol):
    """A started cell. `poll` is None while it runs, then its exit code, negative for a signal."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


Launch = Callable[[Path, dict[str, str], Path], Handle]


def environment(threads: int, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a cell: ours, without any trace of the cluster job we may run in.

    With those variables a cell would take itself for one rank of that job, and log nothing.
    """
    ours = os.environ if given is None else given
    clean = {k: v for k, v in ours.items() if k not in RANKS and not k.startswith(PREFIXES)}
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # the second outdoes the first
    settings = waiting | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    return clean | counts | settings | {"PYTHONUNBUFFERED": "1"}


class Spawned:
    """A cell that is a program of its own."""

    def __init__(self, process: subprocess.Popen[bytes], leash: int) -> None:
        self._process, self._leash = process, leash

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None and self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
        return code

    def terminate(self) -> None:
        if self._process.poll() is None:
            _signal(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self._process.poll() is None:
            _signal(self.pid, signal.SIGKILL)


class Forked:
    """A cell forked from the server."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        if self.poll() is None:
            _signal(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            _signal(self.pid, signal.SIGKILL)


def spawn(folder: Path, env: dict[str, str], log: Path) -> Handle:
    """Start `python -m clframe cell FOLDER`, which imports everything anew."""
    end, leash = os.pipe()
    try:
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "clframe", "cell", str(folder)],
                env=env | {cell.LEASH: str(end)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[end],
                start_new_session=True,
            )
    finally:
        os.close(end)
    return Spawned(process, leash)


def fork(folder: Path, env: dict[str, str], log: Path) -> Handle:
    """Start the cell from the server; as a program of its own where there can be no server."""
    if not start_server(env):
        return spawn(folder, env, log)
    process = context().Process(target=cell.forked, args=(folder, Path.cwd(), env, log))
    _start(process)
    return Forked(process)


def context() -> ForkServerContext:
    """The kind of process that is forked from the server."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([PRELOAD])
    return made


def start_server(env: dict[str, str]) -> bool:
    """Make sure that the server runs, in the environment of a cell; returns at once."""
    context()
    with _silent(), _environment(env):
        try:
            forkserver.ensure_running()
        except OSError:
            return False
    return True


def ask(function: Callable[..., Answer], *arguments: Any, threads: int = 1) -> Answer:
    """`function(*arguments)`, worked out in a process forked from the server.

    It may use torch and run other people's code; this process stays small, and lives on.
    """
    env = environment(threads)
    if not start_server(env):
        return function(*arguments)
    ours, theirs = context().Pipe(duplex=False)
    call = (theirs, Path.cwd(), env, function, arguments)
    process = context().Process(target=_answer, args=call)
    _start(process)
    theirs.close()
    try:
        answer: Answer = ours.recv()
        return answer
    except EOFError:
        process.join()
        name = function.__name__
        raise PluginError(f"{name} died in its own process, exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def _start(process: ForkServerProcess) -> None:
    """Start a fork without its running our main program again, as multiprocessing would have it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main


def _answer(
    to: Connection, here: Path, env: dict[str, str], function: Callable[..., Any], arguments: Any
) -> None:
    cell.enter(here, env, Path(os.devnull))
    to.send(function(*arguments))


def stop(handle: Handle, grace: float = 5.0) -> None:
    """End a cell: ask, wait, then insist."""
    handle.terminate()
    deadline = time.monotonic() + grace
    while handle.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    handle.kill()
    while handle.poll() is None:
        time.sleep(0.02)


@contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    """Start children in `env`: the server offers no way to be told."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _silent() -> Iterator[None]:
    """Let children write nowhere: what the server's imports say would break the progress bars."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _signal(pid: int, number: signal.Signals) -> None:
    """To the whole session of a cell; to the process alone before it has made its own."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
