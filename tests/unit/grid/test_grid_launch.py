"""How cells are started: what they inherit, and that they never outlive their supervisor."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clframe.grid.launch import environment

HOLD = """
import os, time
from pathlib import Path
from clframe.grid import cell, launch

def hold(path):
    os.setsid()
    cell._watch_supervisor()
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)
"""
SPAWNED = """
import os, subprocess, sys, time
from clframe.grid.cell import LEASH
end, leash = os.pipe()
code = "import sys; sys.path.insert(0, '.'); from hold import hold; os = __import__('os');"
code += "os.setsid = lambda: None; hold('pid')"
subprocess.Popen([sys.executable, "-c", code], env=os.environ | {LEASH: str(end)},
                 pass_fds=[end], start_new_session=True)
time.sleep(60)
"""
FORKED = """
import sys, time
sys.path.insert(0, ".")
from clframe.grid import launch
from hold import hold
launch.PRELOAD = "clframe.grid.cell"
assert launch.start_server(launch.environment(1))
launch.context().Process(target=hold, args=("pid",)).start()
time.sleep(60)
"""


@pytest.mark.parametrize("script", [SPAWNED, FORKED], ids=["spawned", "forked"])
def test_a_cell_dies_with_its_supervisor(tmp_path: Path, script: str) -> None:
    """Also when the supervisor is killed and cannot say goodbye."""
    (tmp_path / "hold.py").write_text(HOLD)
    supervisor = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    deadline = time.monotonic() + 60
    written = tmp_path / "pid"
    while not (written.exists() and written.read_text()):
        assert supervisor.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    pid = int(written.read_text())
    assert _runs(pid)
    supervisor.kill()
    supervisor.wait()
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_environment_is_a_function_of_what_is_given() -> None:
    env = environment(3, {"PATH": "/bin", "SLURM_X": "1", "RANKED": "1", "MKL_NUM_THREADS": "9"})
    assert env["RANKED"] == "1" and env["MKL_NUM_THREADS"] == "3" and "SLURM_X" not in env


def test_forked_cells_are_as_separate_as_programs(tmp_path: Path) -> None:
    """Own session, own environment and folder, own log; what they do stays in them."""
    log = tmp_path / "log.txt"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_enter_and_speak, args=(tmp_path, {"ONLY": "this"}, log))
    process.start()
    process.join()
    assert process.exitcode == 0
    out, err = sorted(log.read_text().splitlines())
    assert out == f"A {tmp_path} ['ONLY'] True" and err == "B error"
    assert "ONLY" not in os.environ


def _enter_and_speak(here: Path, env: dict[str, str], log: Path) -> None:
    from clframe.grid.cell import enter

    enter(here, env, log)
    own = os.getsid(0) == os.getpid()
    os.write(1, f"A {os.getcwd()} {list(os.environ)} {own}\n".encode())
    os.write(2, b"B error\n")
