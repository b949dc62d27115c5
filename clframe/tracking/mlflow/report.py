"""A grid's report in MLflow: figures, tables, and links that open its charts on all runs."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clframe.tracking.files import to_json
from clframe.tracking.mlflow.target import Target, client, faults, search

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

MAX_NOTE = 8000
WORKFLOW = "workflowType=machine_learning"  # the UI's menu for training, not the one for agents


def upload_report(
    target: Target,
    grid: str,
    files: Mapping[str, Path],
    tables: Mapping[str, Mapping[str, Any]],
    html: Mapping[str, Path | str],
    description: str,
) -> str | None:
    """Put a report into the grid's one report run, in place of any earlier one; its run id.

    `files` and `html` go by the path they get in the run, HTML being a file or its text; a table is
    `{column: [values]}`. None if the store does not answer.
    """
    try:
        opened = client(target.uri)
        run = _report_run(opened, target, grid)
        named = {
            name if name.endswith(".json") else f"{name}.json": t for name, t in tables.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, content in {**files, **html}.items():
                place = _place(Path(folder), name)
                if isinstance(content, Path):
                    shutil.copyfile(content, place)
                else:
                    place.write_text(content)
            for name, table in named.items():
                _place(Path(folder), name).write_text(to_json(_split(table)))
            _clear(run, target)
            opened.log_artifacts(run.info.run_id, folder)
        shown = [{"path": name, "type": "table"} for name in named]
        opened.set_tag(run.info.run_id, "mlflow.loggedArtifacts", json.dumps(shown))
        opened.set_tag(run.info.run_id, "mlflow.note.content", description[:MAX_NOTE])
        opened.set_terminated(run.info.run_id, "FINISHED")
    except faults() as error:
        log.warning("MLflow does not take the report of %s: %s", grid, error)
        return None
    return str(run.info.run_id)


def chart_links(target: Target, run_ids: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """For each metric the address, inside the UI, of the chart with all runs on one step axis.

    "compare" opens the page with a panel for every metric.
    """
    runs, experiments = _json(list(run_ids)), _json([target.experiment_id])
    links = {
        key: f"/#/metric?runs={runs}&metric={_json(key)}&experiments={experiments}"
        f"&plot_metric_keys={_json([key])}&x_axis=step&{WORKFLOW}"
        for key in keys
    }
    page = f"/#/experiments/{target.experiment_id}/runs?compareRunsMode=CHART&{WORKFLOW}"
    return links | {"compare": page}


def _report_run(opened: MlflowClient, target: Target, grid: str) -> Run:
    run = next(search(opened, target, kind="report", grid=grid), None)
    if run is None:
        tags = {"cl.kind": "report", "cl.grid": grid}
        now = int(time.time() * 1000)
        return opened.create_run(target.experiment_id, now, tags, run_name=f"report {grid}")
    return run


def _clear(run: Run, target: Target) -> None:
    """Drop the artifacts of an earlier report, which may show cells that are no more."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=target.uri)
    for item in repository.list_artifacts():
        repository.delete_artifacts(item.path)  # type: ignore[no-untyped-call]


def _place(folder: Path, name: str) -> Path:
    """Where an artifact called `name` is laid out; names that lead outside are refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"an artifact's name is a relative path, not {name!r}")
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _split(table: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and rows, the form that the UI shows as a table."""
    columns = {n: list(v) if isinstance(v, list | tuple) else [v] for n, v in table.items()}
    return {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}


def _json(value: Any) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe="")
