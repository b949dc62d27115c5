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


def test_threads_that_wait_do_not_spin(tmp_path: Path) -> None:
    """The library that torch brings for its threads says so itself, whatever was set before."""
    given = environment(2, os.environ | {"GOMP_SPINCOUNT": "300", "OMP_WAIT_POLICY": "ACTIVE"})
    env = given | {"OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], env=env, check=True, capture_output=True, text=True
    )
    said = [line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not said:
        pytest.skip("this torch brings another library for its threads")
    assert set(said) == {"GOMP_SPINCOUNT = '0'"}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_the_server_knows_it_before_it_loads_that_library(tmp_path: Path) -> None:
    """The library looks only once, as it is loaded: what a fork sets afterwards is too late."""
    code = (
        "import os; from clframe.grid import launch; launch.PRELOAD = 'clframe.grid.cell'\n"
        "server = launch.ask(os.getppid)\n"
        "print(open(f'/proc/{server}/environ').read().replace(chr(0), ' '))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert {"OMP_WAIT_POLICY=PASSIVE", "GOMP_SPINCOUNT=0"} <= set(done.stdout.split())


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
