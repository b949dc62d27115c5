"""The run's folder: what is written is read, and its state is told from it alone."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from clframe.errors import DataError
from clframe.tracking.files import plain, without_paths
from clframe.tracking.store import RunRecord, RunStore, environment, git_state


def test_config_comes_back_as_it_was(store: RunStore) -> None:
    config = {
        "strategy": "refresh+replay", "optim": {"lr": 1e-5, "milestones": (0.5, 0.75)},
        "requests": None, "options": {}, "note": "größe: 'x' ${y}", "on": True, "s": "1e-3",
    }  # fmt: skip
    store.write_config(config)
    config["optim"] = {"lr": 1e-5, "milestones": [0.5, 0.75]}
    assert store.read_config() == config
    assert list(store.read_config()) == list(config)


def test_record_has_exactly_its_fields(store: RunStore) -> None:
    record = json.loads(store.record_path.read_text())
    assert "mlflow" not in record
    assert record["error"] is None and record["reference"] is None
    store.update_record(mlflow={"run_id": "a", "experiment_id": "1"}, status="done")
    assert json.loads(store.record_path.read_text())["mlflow"]["run_id"] == "a"
    assert store.read_record().status == "done"
    with pytest.raises(ValueError):
        store.update_record(statos="done")
    with pytest.raises(ValueError):
        store.update_record(status="finished")
    assert store.read_record().status == "done"


def test_record_and_metrics_hold_no_nan_and_no_numpy(store: RunStore) -> None:
    store.update_record(
        metrics={"acc": np.float32(0.5), "gap": float("nan")}, cost={"n": np.int64(3)}
    )
    assert store.read_record().metrics == {"acc": 0.5, "gap": None}
    store.write_metrics(
        {"a": np.nan, "b": [1, float("inf")], "c": np.array([[1.0, np.nan]]), 3: (True, None)}
    )
    assert "NaN" not in store.metrics_path.read_text()
    assert store.read_metrics() == {
        "a": None, "b": [1, None], "c": [[1.0, None]], "3": [True, None],
    }  # fmt: skip


def test_no_absolute_path_enters_the_record(store: RunStore) -> None:
    store.update_record(
        error=f"FileNotFoundError: '{Path.cwd()}/x y/z.csv' and {Path.home()}/data",
        environment=environment(),
        git=git_state(Path.cwd()),
        eval={"paths": ["/data/sets/mnist.gz"]},
    )
    text = store.record_path.read_text()
    for folder in (Path.cwd(), Path.home(), store.folder, Path(sys.prefix), "/data/sets"):
        assert f"{folder}/" not in text
    assert store.read_record().eval == {"paths": [".../mnist.gz"]}


def test_what_is_no_path_stays(store: RunStore) -> None:
    for text in ("net/seen", "acc/exp_00/x", "http://host:1/a/b", "1 / 2 / 3", "a//b", "~/x/y/"):
        assert without_paths(text) == text


def test_two_writers_lose_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RunStore.read_record

    def slow(self: RunStore) -> RunRecord:
        record = real(self)
        time.sleep(0.002)  # for the others to write in between, if they can
        return record

    def write(name: str) -> None:
        for i in range(20):
            store.update_record(**{name: {name: i}})

    monkeypatch.setattr(RunStore, "read_record", slow)
    threads = [threading.Thread(target=write, args=(n,)) for n in ("cost", "eval", "git")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = store.read_record()
    assert (record.cost, record.eval, record.git) == ({"cost": 19}, {"eval": 19}, {"git": 19})
    assert [p.name for p in store.folder.glob(".*.tmp")] == []


def test_writing_the_record_anew_keeps_its_mlflow_run(store: RunStore) -> None:
    store.update_record(mlflow={"run_id": "a", "experiment_id": "1"})
    store.write_record(RunRecord(id=store.folder.name, grid="grid", started_ms=5))
    assert store.read_record().mlflow == {"run_id": "a", "experiment_id": "1"}


def test_a_missing_file_says_where_it_looked(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "nowhere")
    for read in (store.read_config, store.read_record, store.read_metrics):
        with pytest.raises(DataError, match=r"nowhere.* is missing.*clframe run"):
            read()


def test_plain_leaves_json_as_it_is() -> None:
    value = {"a": [1, 2.5, "x", None, True, {"b": []}]}
    assert plain(value) == value and plain(True) is True


def test_state_without_a_record_is_missing(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    assert store.state() == "missing"
    store.write_config({"strategy": "replay"})
    assert store.state() == "missing"
    store.record_path.write_text("")  # what a power cut can leave
    assert store.state() == "missing"


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_a_run_that_ended_is_what_it_says(store: RunStore, status: str) -> None:
    store.update_record(status=status)
    assert store.state() == status


def test_a_record_that_is_none_is_an_error(store: RunStore) -> None:
    store.record_path.write_text('{"id": 3}')
    with pytest.raises(DataError, match=r"record\.json is not a run's record"):
        store.state()
