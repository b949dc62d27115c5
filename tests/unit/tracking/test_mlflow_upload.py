"""Uploading a run: every point once, in batches, whatever is killed or away meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clframe.tracking.mlflow import RunUploader, Target, find_runs, prepare
from clframe.tracking.mlflow.target import client

Points = list[tuple[int, int, float]]
History = Callable[..., Points]


def test_a_running_cell_is_shown_up_to_its_last_mark(
    cell: Any, target: Target, history: History
) -> None:
    uploader = RunUploader(target, cell.store.folder)
    cell.train(200)
    assert uploader.push() == 0  # no mark yet
    cell.mark()
    cell.train(70)
    assert uploader.push() == 600
    assert history("acc/exp_00") == cell.expected(200)
    assert history("loss/new") == cell.expected(200, 2)
    run = cell.run(target)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == cell.store.folder.name
    assert {k: v for k, v in run.data.tags.items() if k.startswith("cl.")} == {
        "cl.kind": "cell", "cl.grid": "grid", "cl.cell_key": "blobs-replay-s3-0123abcd",
        "cl.strategy": "replay", "cl.scenario": "blobs", "cl.seed": "3",
    }  # fmt: skip
    assert run.data.params == {
        "strategy": "replay", "scenario": "blobs", "seed": "3", "optim.lr": "0.5",
    }  # fmt: skip
    assert uploader.push() == 0
    assert uploader.push(final=True) == 210
    assert history("acc/exp_00") == cell.expected(270)


def test_points_travel_in_batches_of_300_to_1000(
    cell: Any, target: Target, batches: list[int]
) -> None:
    uploader = RunUploader(target, cell.store.folder)
    cell.train(90)
    cell.mark()
    assert uploader.push() == 0  # 270 points wait for company
    cell.train(10)
    cell.mark()
    assert uploader.push() == 300
    cell.train(5000, block=1111)
    cell.mark()
    assert uploader.push() == 15000
    sent = [n for n in batches if n]
    assert sum(sent) == 15300 and min(sent) >= 300 and max(sent) <= 1000
    cell.train(1)
    assert uploader.push(final=True) == 3


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60_000))
def test_any_number_of_points_is_cut_into_fair_batches(count: int) -> None:
    sizes: list[int] = []

    class Sink:
        def log_batch(self, run_id: str, metrics: list[int], synchronous: bool) -> None:
            sizes.append(len(metrics))

    uploader = RunUploader(Target("", ""), "nowhere")
    uploader.__dict__["_client"], uploader.run_id = Sink(), "x"
    uploader._send(list(range(count)))  # type: ignore[arg-type]
    assert sum(sizes) == count and max(sizes) <= 1000 and min(sizes) >= min(count, 300)


def test_a_later_supervisor_goes_on_where_the_first_stopped(
    cell: Any, target: Target, batches: list[int], history: History
) -> None:
    cell.train(200)
    cell.mark()
    assert RunUploader(target, cell.store.folder).push() == 600
    cell.train(200)
    cell.mark()
    assert RunUploader(target, cell.store.folder).push() == 600
    assert sum(batches) == 1200
    assert history("acc/exp_00") == cell.expected(400)
    assert len(find_runs(target, "grid")) == 1


def test_without_its_notes_a_supervisor_finds_the_run_by_tags(
    cell: Any, target: Target, history: History
) -> None:
    cell.train(200)
    cell.mark()
    RunUploader(target, cell.store.folder).push()
    (cell.store.folder / "upload.json").unlink()
    cell.train(200)
    assert RunUploader(target, cell.store.folder).push(final=True) == 1200
    assert history("acc/exp_00") == cell.expected(400)
    assert len(client(target.uri).search_runs([target.experiment_id])) == 1


# -- trap 8: iterations replayed after a crash appear once ---------------------------------------


def test_a_crash_replay_leaves_no_duplicate_points(
    cell: Any, target: Target, history: History
) -> None:
    uploader = RunUploader(target, cell.store.folder)
    cell.train(150)
    offset = cell.mark()
    cell.train(99, block=33)
    uploader.push()
    cell.resume(offset, 150)  # killed, started again, and its frames now end elsewhere
    cell.train(110, block=20)
    cell.mark()
    uploader.push()
    assert RunUploader(target, cell.store.folder).push(final=True) >= 0
    for column, key in enumerate(cell.keys):
        assert history(key) == cell.expected(260, column)


def test_a_cell_resumed_after_its_tail_was_uploaded_leaves_no_duplicates(
    cell: Any, target: Target, history: History
) -> None:
    cell.train(150)
    offset = cell.mark()
    cell.train(120, block=40)
    assert RunUploader(target, cell.store.folder).finish("failed")
    assert history("acc/exp_00") == cell.expected(270)
    assert json.loads((cell.store.folder / "upload.json").read_text())["offset"] == offset
    cell.resume(offset, 150)
    cell.train(300, block=70)
    cell.mark()
    uploader = RunUploader(target, cell.store.folder)
    assert uploader.push() > 0
    assert cell.run(target).info.status == "RUNNING"
    assert uploader.finish("done")
    assert cell.run(target).info.status == "FINISHED"
    for column, key in enumerate(cell.keys):
        assert history(key) == cell.expected(450, column)


def test_a_record_written_anew_moves_no_point(cell: Any, target: Target, history: History) -> None:
    cell.train(200)
    RunUploader(target, cell.store.folder).finish("failed")
    cell.store.update_record(started_ms=cell.store.read_record().started_ms + 12345)
    cell.resume(0, 0)
    cell.train(250)
    RunUploader(target, cell.store.folder).finish("done")
    assert history("acc/exp_00") == cell.expected(250)


def test_a_journal_begun_anew_is_uploaded_from_its_start(
    cell: Any, target: Target, history: History
) -> None:
    cell.train(400)
    cell.mark()
    RunUploader(target, cell.store.folder).push()
    for block, length in ((37, 100), (50, 450)):  # shorter than before, and longer but different
        cell.resume(0, 0)
        cell.keys = ("acc/exp_00", "acc/exp_01", "a/new/key")
        cell.train(length, block=block)
        assert RunUploader(target, cell.store.folder).push(final=True) == 3 * length
    assert history("a/new/key") == cell.expected(450, 2)


# -- trap 10: a killed cell ends, with all it had measured ---------------------------------------


def test_a_killed_cell_ends_failed_with_its_tail(
    cell: Any, target: Target, history: History
) -> None:
    cell.journal.close()
    code = (
        "import sys, time; from clframe.tracking.journal import Journal\n"
        "j = Journal(sys.argv[1])\n"
        "for i in range(10**9):\n"
        "    j.append('metrics', keys=['acc/exp_00'], iteration=[i], values=[[i / 7]])\n"
        "    if i == 50: j.append('mark', iteration=[i])\n"
        "    if i == 400: print('far enough', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, cell.store.journal_path], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    uploader = RunUploader(target, cell.store.folder)
    uploader.push()
    child.kill()
    child.wait()
    with open(cell.store.journal_path, "ab") as torn:
        torn.write(b"CLJ1half a frame")
    assert uploader.finish("failed")
    run = cell.run(target)
    assert run.info.status == "FAILED"
    assert run.info.end_time == pytest.approx(time.time() * 1000, abs=60_000)
    points = history("acc/exp_00")
    assert len(points) > 400 and points == cell.expected(len(points))


def test_a_cell_that_died_before_its_record_is_shown_as_failed(target: Target, runs: Path) -> None:
    folder = runs / "grid" / "blobs-replay-s0-dead"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("ImportError")
    uploader = RunUploader(target, folder)
    assert uploader.push() == 0 and find_runs(target, "grid") == {}
    assert uploader.finish("failed")
    (run_id,) = find_runs(target, "grid").values()
    run = client(target.uri).get_run(run_id)
    assert run.info.status == "FAILED" and run.data.tags["cl.cell_key"] == folder.name
    assert [f.path for f in client(target.uri).list_artifacts(run.info.run_id)] == ["log.txt"]
    assert not (folder / "record.json").exists()


# -- trap 11: the server goes away ---------------------------------------------------------------


def test_a_server_that_dies_mid_run_gets_everything_later(
    cell: Any, target: Target, server: Any, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("clframe.tracking.mlflow.upload.time.monotonic", lambda: clock[0])
    remote = prepare(cell.store.folder.parent.parent, server.start(), "clframe")
    uploader = RunUploader(remote, cell.store.folder)
    cell.train(200)
    cell.mark()
    assert uploader.push() == 600
    server.stop()
    cell.train(200)
    cell.mark()
    saved = (cell.store.folder / "upload.json").read_bytes()
    assert uploader.push() == 0
    assert (cell.store.folder / "upload.json").read_bytes() == saved
    assert not uploader.finish("done")
    server.start()
    assert uploader.push() == 0  # it waits a little before it asks again
    clock[0] += 61
    assert uploader.push() == 600
    cell.train(5)
    assert uploader.finish("done")
    assert history("acc/exp_00") == cell.expected(405)
    run = cell.run(target)
    assert run.info.status == "FINISHED"


def test_a_server_away_from_the_start_costs_no_more_than_time(
    cell: Any, server: Any, target: Target, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    address = server.start()
    server.stop()
    away = RunUploader(Target(address, target.experiment_id), cell.store.folder)
    cell.train(200)
    cell.mark()
    for _ in range(5):
        begun = time.monotonic()
        assert away.push() == 0
        assert time.monotonic() - begun < 5
    assert not away.finish("failed")
    warnings = [r for r in caplog.records if "does not take" in r.message]
    assert len(warnings) == 1 and cell.store.folder.name in warnings[0].message
    assert RunUploader(target, cell.store.folder).finish("failed")
    assert history("acc/exp_00") == cell.expected(200)


def test_waiting_grows_to_a_minute(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("clframe.tracking.mlflow.upload.time.monotonic", lambda: clock[0])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uploader = RunUploader(Target("http://127.0.0.1:9", "0"), cell.store.folder)
    waits = []
    for _ in range(9):
        uploader.push()
        waits.append(uploader._retry_at - clock[0])
        clock[0] = uploader._retry_at
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_an_audit_found_is_sent_by_a_later_call(cell: Any, target: Target) -> None:
    cell.train(5)
    assert RunUploader(target, cell.store.folder).finish("done")
    times = {"0.05": {"value": "inf"}, "0.1": {"value": 2.0}}
    found = {
        "gain": -0.25,
        "by_task": {"retrained": {"forget_test": {"0": 0.5, "2": 0.25}, "retain_test": {}}},
        "agreement": {"forget_test": {"js": {"value": 0.125, "floor": None, "ratio": None}}},
        "attacks": {"loss": {"unlearned": 0.75, "note": "attack uninformative"}},
        "requests": [{"name": "U0", "position": 2, "times": times}],
        "cost": {"seconds": 1.5},
        "confidence": {"unlearned": [1.0]},
    }
    cell.store.audit_path.write_text(json.dumps(found))
    assert RunUploader(target, cell.store.folder).finish("done")
    run = cell.run(target)
    assert {k: v for k, v in run.data.metrics.items() if k.startswith("audit/")} == {
        "audit/gain": -0.25,
        "audit/accuracy_forget_test/retrained": 0.375,
        "audit/distance_forget_test/js": 0.125,
        "audit/attacks/loss/unlearned": 0.75,
        "audit/anamnesis_0.1/2_U0": 2.0,
        "audit/cost/seconds": 1.5,
    }
    names = [a.path for a in client(target.uri).list_artifacts(run.info.run_id)]
    assert "audit.json" in names and run.info.status == "FINISHED"
