"""Ending a run in MLflow, and the names and values that it is told in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clframe.tracking.journal import Journal
from clframe.tracking.mlflow import RunUploader, Target, describe, find_runs
from clframe.tracking.mlflow.target import client

Points = list[tuple[int, int, float]]
History = Callable[..., Points]


# -- the end of a run ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "shown"), [("done", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_finish_may_be_called_again(
    cell: Any, target: Target, batches: list[int], history: History, status: Any, shown: str
) -> None:
    cell.train(30)
    for uploader in (
        first := RunUploader(target, cell.store.folder),
        first,
        RunUploader(*pair(first)),
    ):
        assert uploader.finish(status)
        run = cell.run(target)
        assert run.info.status == shown
        assert history("acc/exp_00") == cell.expected(30)
        end = run.info.end_time
    assert cell.run(target).info.end_time == end


def pair(uploader: RunUploader) -> tuple[Target, Path]:
    return uploader.target, uploader.store.folder


def described(train: str, evaluation: str) -> dict[str, Any]:
    hashes = {"train_sha256": train * 32, "eval_sha256": evaluation * 32}
    return {"train_size": 6, "eval_size": 2} | hashes


def test_a_finished_run_holds_its_summary_data_and_files(cell: Any, target: Target) -> None:
    store = cell.store
    cell.train(10)
    store.update_record(
        iteration=10, cost={"updates": 10}, seconds={"train": 1.5},
        data={
            "scenario": "blobs", "setting": "class", "class_order": [1, 0],
            "input_shape": [1, 8, 8], "experiences": [described("ab", "cd"), described("ef", "01")],
        },
    )  # fmt: skip
    store.write_metrics(
        {"acc_final": 0.75, "bwt": None, "wf": {"10": 0.25}, "R": [[1.0]], "n": 2, "gap": {
            "depth_mean": 0.5, "recovery_time_mean": {"0.9": 4.0},
            "pairs": {"0->1|0": {"depth": 1}},
        }}
    )  # fmt: skip
    store.write_traces()
    store.log_path.write_text("log")
    for name in ("last.ckpt", "heartbeat.json"):
        (store.folder / name).write_text("not for upload")
    for _ in range(2):
        assert RunUploader(target, store.folder).finish("done")
    run = cell.run(target)
    metrics = {k: v for k, v in run.data.metrics.items() if k not in cell.keys}
    assert metrics == {
        "summary/acc_final": 0.75, "summary/wf/10": 0.25, "summary/n": 2.0,
        "summary/gap/depth_mean": 0.5, "summary/gap/recovery_time_mean/0.9": 4.0,
        "cost/updates": 10.0, "seconds/train": 1.5,
    }  # fmt: skip
    opened = client(target.uri)
    assert len(opened.get_metric_history(run.info.run_id, "summary/acc_final")) == 1
    assert sorted(f.path for f in opened.list_artifacts(run.info.run_id)) == [
        "boundary.parquet", "config.yaml", "log.txt",
        "metrics.json", "record.json", "trace.parquet",
    ]  # fmt: skip
    inputs = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
    assert {c: d.name for c, d in inputs.items()} == {
        "training": "blobs/train", "evaluation": "blobs/eval",
    }  # fmt: skip
    assert json.loads(inputs["training"].profile)["experience_sha256"] == ["ab" * 32, "ef" * 32]
    assert inputs["training"].digest != inputs["evaluation"].digest
    assert json.loads(inputs["training"].source)["class_order"] == [1, 0]
    ids = {"run_id": run.info.run_id, "experiment_id": target.experiment_id}
    assert store.read_record().mlflow == ids


def test_a_summary_that_changed_is_the_one_shown(cell: Any, target: Target) -> None:
    for value in (0.9, 0.4):  # the reference cells came later, say; a smaller value must win too
        cell.store.write_metrics({"intransigence": value})
        RunUploader(target, cell.store.folder).finish("done")
        assert cell.run(target).data.metrics["summary/intransigence"] == value
        time.sleep(0.002)


def test_a_changed_config_leaves_the_params_that_are_there(
    cell: Any, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # then it refuses what is too long
    RunUploader(target, cell.store.folder).finish("failed")
    config = cell.store.read_config() | {"seed": 4, "note": "n" * 7000, "empty": "", "none": None}
    cell.store.write_config(config)
    assert RunUploader(target, cell.store.folder).finish("done")
    params = cell.run(target).data.params
    assert params["seed"] == "3" and params["none"] == "null" and params["empty"] == ""
    assert params["note"] == "n" * 6000


def test_a_copied_or_deleted_run_is_not_written_to(cell: Any, target: Target, runs: Path) -> None:
    import shutil

    cell.train(10)
    RunUploader(target, cell.store.folder).finish("done")
    copy = runs / "other" / cell.store.folder.name
    shutil.copytree(cell.store.folder, copy)
    record = json.loads((copy / "record.json").read_text())
    (copy / "record.json").write_text(json.dumps(record | {"grid": "other"}))
    RunUploader(target, copy).finish("done")
    (original,), (copied,) = (find_runs(target, g).values() for g in ("grid", "other"))
    assert original != copied
    client(target.uri).delete_run(original)
    assert RunUploader(target, cell.store.folder).push(final=True) == 30
    (again,) = find_runs(target, "grid").values()
    assert again not in (original, copied)


# -- values and names ----------------------------------------------------------------------------


def test_absent_values_are_not_sent(cell: Any, target: Target, history: History) -> None:
    cell.journal.append(
        "metrics", keys=["a", "b"], iteration=[0, 1], values=[[1.0, np.nan], [np.nan, 2.0]]
    )
    cell.journal.append("metrics", keys=["c"], iteration=[0], values=[[np.nan]])
    cell.journal.append("trace", iteration=[0])
    assert RunUploader(target, cell.store.folder).push(final=True) == 2
    assert history("a") == [(0, 0, 1.0)] and history("b") == [(1, 1, 2.0)]
    assert history("c") == []


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=300))
def test_any_key_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    made = describe.key(name)
    _validate_metric_name(made)
    _validate_param_name(made)
    assert 0 < len(made) <= 250


def test_good_keys_stay_as_they_are() -> None:
    for name in ("acc/exp_00", "min_acc", "loss/new", "options.er-ace.a b", "pkg.mod:Class.x"):
        assert describe.key(name) == name
    assert describe.key("0->1|0") == "0_to_1_on_0"


def test_strange_keys_reach_mlflow(cell: Any, target: Target, history: History) -> None:
    cell.journal.append("metrics", keys=["acc[0]", "/../x//y/"], iteration=[0], values=[[1.0, 2.0]])
    assert RunUploader(target, cell.store.folder).push(final=True) == 2
    assert history("acc_0_") == [(0, 0, 1.0)] and history("x/y") == [(0, 0, 2.0)]


def test_uploading_is_fast_enough(cell: Any, target: Target) -> None:
    cell.train(4000)
    begun = time.process_time()
    sent = RunUploader(target, cell.store.folder).push(final=True)
    assert sent == 12000 and (time.process_time() - begun) / sent < 2e-3  # measured 0.1-0.2 ms


@pytest.mark.parametrize(("full", "least"), [(7, 1), (7, 5), (7, 6), (100, 40), (100, 50)])
def test_lists_of_points_end_where_their_frames_end(tmp_path: Path, full: int, least: int) -> None:
    journal, ends = Journal(tmp_path / "j"), [0]
    for i in range(40):
        journal.append("metrics", keys=["a"], iteration=[i], values=[[1.0]])
        ends.append(journal.offset)
    got = list(describe.chunks(tmp_path / "j", 0, None, 0, full, least))
    rest = 40 % full
    sizes = [full] * (40 // full) + [rest] * (rest >= least)
    assert [len(points) for points, _ in got] == sizes
    assert [end for _, end in got] == [ends[sum(sizes[: i + 1])] for i in range(len(sizes))]
    stopped = describe.chunks(tmp_path / "j", ends[3], ends[9] + 1, 0, full, 1)
    assert [p.step for points, _ in stopped for p in points] == [3, 4, 5, 6, 7, 8]
