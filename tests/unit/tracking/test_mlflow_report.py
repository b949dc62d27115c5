"""The report run: one per grid, replaced when the report is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from clframe.tracking.mlflow import Target, chart_links, find_runs, upload_report
from clframe.tracking.mlflow.target import client


def artifacts(target: Target, run_id: str, under: str | None = None) -> dict[str, bytes]:
    """All artifacts of a run, by path."""
    opened, found = client(target.uri), {}
    for item in opened.list_artifacts(run_id, under):
        if item.is_dir:
            found |= artifacts(target, run_id, item.path)
        else:
            found[item.path] = Path(opened.download_artifacts(run_id, item.path)).read_bytes()
    return found


@pytest.fixture
def figure(tmp_path: Path) -> Path:
    path = tmp_path / "local name.png"
    path.write_bytes(b"PNG")
    return path


def test_a_report_holds_figures_tables_pages_and_a_note(target: Target, figure: Path) -> None:
    run_id = upload_report(
        target, "gap",
        files={"plots/gap.png": figure, "top.png": figure},
        tables={
            "metrics": {"strategy": ["a", "b"], "acc": [0.5, float("nan")]}, "one.json": {"n": 3},
        },
        html={"report.html": "<b>größe</b>", "plots/copy.html": figure},
        description="see [all](/#/x)",
    )  # fmt: skip
    assert run_id is not None
    found = artifacts(target, run_id)
    assert {k: found.pop(k) for k in list(found) if k.endswith(("png", "html"))} == {
        "plots/gap.png": b"PNG", "top.png": b"PNG", "plots/copy.html": b"PNG",
        "report.html": "<b>größe</b>".encode(),
    }  # fmt: skip
    assert {k: json.loads(v) for k, v in found.items()} == {
        "metrics.json": {"columns": ["strategy", "acc"], "data": [["a", 0.5], ["b", None]]},
        "one.json": {"columns": ["n"], "data": [[3]]},
    }
    run = client(target.uri).get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "report gap"
    assert run.data.tags["cl.kind"] == "report" and run.data.tags["cl.grid"] == "gap"
    assert run.data.tags["mlflow.note.content"] == "see [all](/#/x)"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "metrics.json", "type": "table"}, {"path": "one.json", "type": "table"},
    ]  # fmt: skip


# -- trap 13 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["sqlite", "server"])
def test_a_report_made_again_replaces_the_first(
    target: Target, figure: Path, server: Any, through: str
) -> None:
    if through == "server":
        from clframe.tracking.mlflow import prepare

        runs = Path(target.uri.partition(":///")[2]).parent
        target = prepare(runs, server.start(), "served")
    first = upload_report(
        target,
        "g",
        {"old/a.png": figure},
        {"t": {"x": [1]}, "u": {"x": [1]}},
        {"r.html": "1"},
        "one",
    )
    again = upload_report(
        target, "g", {"new/a.png": figure}, {"t": {"x": [2]}}, {"r.html": "2"}, "two"
    )
    assert first == again is not None
    assert artifacts(target, first) == {
        "new/a.png": b"PNG",
        "r.html": b"2",
        "t.json": artifacts(target, first)["t.json"],
    }
    assert json.loads(artifacts(target, first)["t.json"])["data"] == [[2]]
    tags = client(target.uri).get_run(first).data.tags
    assert tags["mlflow.note.content"] == "two"
    assert [t["path"] for t in json.loads(tags["mlflow.loggedArtifacts"])] == ["t.json"]
    assert upload_report(target, "h", {}, {}, {}, "") != first


def test_the_table_is_one_that_mlflow_reads(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = upload_report(target, "g", {}, {"t": {"s": ["a", "b"], "v": [1, 2.5]}}, {}, "")
    assert run_id is not None
    from mlflow.tracking._tracking_service import utils

    monkeypatch.setattr(utils, "_tracking_uri", target.uri)  # which its reader also asks
    table = client(target.uri).load_table(target.experiment_id, "t.json", [run_id])
    assert table.to_dict("list") == {"s": ["a", "b"], "v": [1, 2.5]}


def test_a_name_that_leads_outside_is_refused(target: Target, figure: Path) -> None:
    for name in ("../x.png", "/x.png", "a/../../x.png"):
        with pytest.raises(ValueError, match="relative path"):
            upload_report(target, "g", {name: figure}, {}, {}, "")


def test_a_long_note_is_cut_to_what_mlflow_takes(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # then it refuses what is too long
    run_id = upload_report(target, "g", {}, {}, {}, "é" * 9000)
    assert run_id is not None
    assert client(target.uri).get_run(run_id).data.tags["mlflow.note.content"] == "é" * 8000


def test_a_store_that_is_away_loses_only_the_view(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Target("http://127.0.0.1:9", "1")
    assert upload_report(away, "g", {}, {}, {}, "") is None
    assert find_runs(away, "g") == {}
    assert len(caplog.records) >= 2


# -- finding and linking -------------------------------------------------------------------------


def test_runs_are_found_by_grid_and_kind(target: Target) -> None:
    opened = client(target.uri)
    made = {}
    for grid in ("it's", 'a"b'):
        for i in range(3):
            tags = {"cl.kind": "cell", "cl.grid": grid, "cl.cell_key": f"c{i}"}
            made[grid, f"c{i}"] = opened.create_run(target.experiment_id, 1 + i, tags).info.run_id
    upload_report(target, "it's", {}, {}, {}, "")
    opened.create_run(
        target.experiment_id, 9, {"cl.kind": "cell", "cl.grid": "it's", "cl.cell_key": "c0"}
    )
    for grid in ("it's", 'a"b'):
        assert find_runs(target, grid) == {f"c{i}": made[grid, f"c{i}"] for i in range(3)}
    assert find_runs(target, "none") == {}


def test_all_pages_of_runs_are_read(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    opened, real = client(target.uri), MlflowClient.search_runs
    for i in range(5):
        tags = {"cl.kind": "cell", "cl.grid": "g", "cl.cell_key": f"c{i}"}
        opened.create_run(target.experiment_id, 1 + i, tags)
    monkeypatch.setattr(
        MlflowClient, "search_runs", lambda *a, **k: real(*a, **(k | {"max_results": 2}))
    )
    assert list(find_runs(target, "g")) == ["c0", "c1", "c2", "c3", "c4"]


def test_links_open_all_runs_on_one_step_axis() -> None:
    links = chart_links(Target("sqlite:///x", "7"), ["r1", "r2"], ["acc/exp_00", "min_acc"])
    assert list(links) == ["acc/exp_00", "min_acc", "compare"]
    path, _, query = links["acc/exp_00"].partition("?")
    assert path == "/#/metric" and " " not in query and '"' not in query
    assert parse_qs(query) == {
        "runs": ['["r1","r2"]'], "metric": ['"acc/exp_00"'], "experiments": ['["7"]'],
        "plot_metric_keys": ['["acc/exp_00"]'], "x_axis": ["step"],
        "workflowType": ["machine_learning"],
    }  # fmt: skip
    page, _, query = links["compare"].partition("?")
    assert page == "/#/experiments/7/runs"
    assert query == "compareRunsMode=CHART&workflowType=machine_learning"
