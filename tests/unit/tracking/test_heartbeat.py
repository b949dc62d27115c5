"""A killed cell is told from a living one, on this machine and on others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from clframe.tracking.heartbeat import STALE_SECONDS, _self
from clframe.tracking.store import RunStore


def beat(store: RunStore, age: float = 0.0, **changes: Any) -> None:
    """A heartbeat of this process, but for `changes`, written `age` seconds ago."""
    content = {k: v for k, v in (_self() | changes).items() if v != "absent"}
    store.heartbeat_path.write_text(json.dumps(content))
    then = time.time() - age
    os.utime(store.heartbeat_path, (then, then))


def test_running_needs_a_heartbeat(store: RunStore) -> None:
    assert store.state() == "interrupted"
    beat(store)
    assert store.state() == "running"
    store.heartbeat_path.write_text("{tor")
    assert store.state() == "interrupted"


def test_a_live_process_on_this_host_runs_however_old_its_heartbeat(store: RunStore) -> None:
    beat(store, age=1e6)
    assert store.state() == "running"


def test_a_dead_process_on_this_host_does_not(store: RunStore) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    beat(store, pid=child.pid)
    assert store.state() == "interrupted"


def test_a_killed_cell_is_dead_before_its_parent_reaps_it(store: RunStore) -> None:
    code = (
        "import sys, time; from clframe.tracking.store import RunStore\n"
        "with RunStore(sys.argv[1]).heartbeat(): print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, store.folder], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "up\n"
    assert store.state() == "running"
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert store.state() == "interrupted"
    child.wait()
    assert store.state() == "interrupted"


def test_a_reused_pid_is_another_process(store: RunStore) -> None:
    beat(store, started=_self()["started"] - 1)
    assert store.state() == "interrupted"


def test_where_start_times_are_unknown_the_age_counts_too(store: RunStore) -> None:
    beat(store, started="absent", space="absent")
    assert store.state() == "running"
    beat(store, started="absent", space="absent", age=STALE_SECONDS + 5)
    assert store.state() == "interrupted"


@pytest.mark.parametrize("where", [{"host": "elsewhere.example"}, {"space": "other container"}])
def test_from_another_host_only_the_age_counts(store: RunStore, where: dict[str, str]) -> None:
    beat(store, pid=2**22 + 1, age=STALE_SECONDS - 10, **where)
    assert store.state() == "running"
    beat(store, age=STALE_SECONDS + 5, **where)
    assert store.state() == "interrupted"


def test_the_heartbeat_is_refreshed_and_ends(store: RunStore) -> None:
    with store.heartbeat(every=0.02):
        content = json.loads(store.heartbeat_path.read_text())
        assert (content["host"], content["pid"]) == (socket.gethostname(), os.getpid())
        os.utime(store.heartbeat_path, (1, 1))
        deadline = time.time() + 10
        while store.heartbeat_path.stat().st_mtime < 2 and time.time() < deadline:
            time.sleep(0.01)
        assert store.heartbeat_path.stat().st_mtime > 2
        assert store.state() == "running"
    assert store.state() == "interrupted"
    assert not [t for t in threading.enumerate() if t.name == "heartbeat"]


def test_a_heartbeat_outlives_a_full_disk(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.heartbeat(every=0.01):

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("clframe.tracking.heartbeat.replace_file", fail)
        time.sleep(0.1)
        assert [t for t in threading.enumerate() if t.name == "heartbeat"]
