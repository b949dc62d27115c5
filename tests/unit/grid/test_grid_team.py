"""Several handles as one: whose exit code counts, who is ended, what the record says of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from clframe.config.load import load_run
from clframe.errors import ConfigError
from clframe.grid import engines, team
from clframe.grid.engines import Resources, gpu_names
from clframe.grid.launch import Handle, Launch
from clframe.grid.runner import write_config
from clframe.grid.supervise import _said, _settle
from clframe.grid.team import Team
from clframe.ranks import LOST
from clframe.tracking.store import RunRecord, RunStore


class Member:
    """A process that has ended with `code`, or, with None, runs until it is killed."""

    pid = 1

    def __init__(self, code: int | None) -> None:
        self.code = code

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.code = -15 if self.code is None else self.code

    def kill(self) -> None:
        self.code = -9 if self.code is None else self.code


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([0, 0], 0),
        ([0, None], None),
        ([LOST, -9], -9),  # one was killed, the other lost it
        ([LOST, 1], 1),
        ([LOST, 0], LOST),
        ([2, 2], 2),
        ([1, -6, LOST], -6),
    ],
)
def test_the_verdict_of_all(codes: list[int | None], verdict: int | None) -> None:
    both = Team([Member(code) for code in codes], first=4)
    assert both.poll() == verdict
    assert both.failed == (4 + codes.index(verdict) if verdict else None)


def test_those_who_run_on_are_ended_and_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, failed = Member(None), Member(1)
    both = Team([stuck, failed])
    assert both.poll() is None and stuck.code is None, "it may have something to say"
    monkeypatch.setattr(team, "GRACE", 0.0)
    assert both.poll() is None and stuck.code == -9
    assert both.poll() == 1


def test_the_first_cause_is_told(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write_record(RunRecord(id="x", grid="g", started_ms=1))
    store.note(0, "rank 0 waited in vain", lost=True)
    store.note(1, "IndexError: 3", lost=False)
    assert _settle(store, 1) == "failed"
    assert store.read_record().error == "rank 1: IndexError: 3" and not store.notes()
    store.note(0, "rank 0 waited in vain", lost=True)
    _settle(store, -9)
    assert store.read_record().error == "killed by SIGKILL; perhaps memory ran out"
    for rc, said in ((-11, "was killed by SIGSEGV"), (3, "ended with exit code 3, without a word")):
        store.note(0, "rank 0 waited in vain", lost=True)
        _settle(store, rc, 1)
        assert store.read_record().error == f"rank 1 {said}"
    notes = [{"rank": r, "lost": True, "error": f"rank {r} waited"} for r in (0, 2)]
    assert _said(notes) == "rank 0 waited; rank 2 waited"


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "gpu_names", lambda: ("2", "3", "5"))
    assert [Resources(1, 1).visible_gpus(place, 4) for place in range(4)] == ["2", "3", "5", "2"]
    assert Resources(1, 2).visible_gpus(1, 2) == "5,2"
    assert Resources(1, 1).visible_gpus(0, 1) is None, "alone it may have all"
    assert Resources(1, 1, "cpu").visible_gpus(0, 4) is None
    gpu_names.cache_clear()
    monkeypatch.undo()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert gpu_names() == ("4", "6")
    gpu_names.cache_clear()


def test_a_rank_waits_for_its_own_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run with other devices has left in the folder is not taken for it."""
    base = ["strategy=fine_tune", "scenario=split_digits"]
    old, new = load_run(base), load_run([*base, "devices=2", "timeout=0.3"])
    write_config(old, tmp_path)
    started: list[str] = []

    def start(cfg: object) -> Launch:
        def launch(folder: Path, env: dict[str, str], log: Path) -> Handle:
            started.append((folder / "config.yaml").read_text())
            return Member(0)

        return launch

    monkeypatch.setattr(team, "team", start)
    with pytest.raises(ConfigError, match=r"rank 0 has not come within 0\.3 s"):
        team.take_part(new, tmp_path)
    assert not started
    threading.Timer(0.1, write_config, (new, tmp_path)).start()
    assert team.take_part(new, tmp_path) == 0 and "devices: 2" in started[0]
