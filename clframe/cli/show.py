"""Showing results: a grid's report, written and sent to MLflow, and MLflow's own pages."""

from __future__ import annotations

import os
import socket
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clframe.config.load import defaults
from clframe.config.problems import look_up
from clframe.config.read import overrides
from clframe.config.schema import Track
from clframe.errors import ClframeError, ConfigError
from clframe.tracking.store import RunStore

if TYPE_CHECKING:
    from clframe.tracking.mlflow import Target

HOST, PORT = "127.0.0.1", 5000
CURVES = ("acc/exp_00", "min_acc", "wc_acc")


def grid_folder(name: str, runs: Path) -> Path:
    """A grid's folder, given as such or by the grid's name."""
    return Path(name) if Path(name).is_dir() else runs / name


def report(name: str, runs: Path, baseline: str | None) -> int:
    """Write the report of a grid and show it in MLflow; the last line is the page's path."""
    from clframe.report import build, by_column
    from clframe.tracking.mlflow import upload_report

    folder = grid_folder(name, runs)
    target = _target(folder, runs) if folder.is_dir() else None
    links = _links(target, folder) if target else {}
    made = build(folder, baseline=baseline, links=links)
    if target:
        files = {path.name: path for path in made.files if path != made.html}
        tables = {f"tables/{k}": by_column(t) for k, t in made.tables.items() if t}
        note = "\n\n".join([made.summary, *(f"[{k}]({v})" for k, v in links.items())])
        upload_report(target, folder.name, files, tables, {made.html.name: made.html}, note)
    print(made.summary)
    if target and not target.uri.startswith("http"):
        print(f"MLflow: clframe ui --runs {runs}")
    print(made.html)
    return 0


def ui(runs: Path, words: Sequence[str], port: int) -> int:
    """Serve MLflow's pages on the store that runs here use, until stopped."""
    uri = _uri(words)
    if uri and uri.startswith("http"):
        print(uri)
        return 0
    database = runs.resolve() / "mlflow.db"
    if not uri and not database.exists():
        raise ClframeError(
            f"no MLflow store at {database}.\nRun something first, or name its --runs."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            raise ClframeError(
                f"port {port} cannot be used.\nTry: clframe ui --port {port + 1}"
            ) from None
    store = uri or f"sqlite:///{database}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    print(f"http://{HOST}:{port}", flush=True)
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execve(command[0], command, os.environ | quiet)  # signals then reach the server itself


def _uri(words: Sequence[str]) -> str | None:
    given = overrides(words)
    odd = [key for key in given if key != "track.uri"]
    if odd:
        raise ConfigError(f"{odd[0]} says nothing to `clframe ui`.\nIt takes track.uri=...")
    uri = given.get("track.uri") or look_up(defaults()[1], "track.uri")
    return uri if isinstance(uri, str) else None


def _target(folder: Path, runs: Path) -> Target | None:
    """The store in which the cells of a grid are shown; None if they are in none."""
    for path in sorted(folder.glob("*/config.yaml")):
        track = Track.model_validate(RunStore(path.parent).read_config().get("track", {}))
        if track.enabled:
            from clframe.tracking.mlflow import prepare

            return prepare(runs, track.uri, track.experiment)
    return None


def _links(target: Target, folder: Path) -> dict[str, str]:
    """Addresses of MLflow's charts with all runs of one scenario on one axis."""
    from clframe.tracking.mlflow import chart_links, find_runs

    host = target.uri if target.uri.startswith("http") else f"http://{HOST}:{PORT}"
    of_scenario: dict[str, list[str]] = defaultdict(list)
    for key, run in sorted(find_runs(target, folder.name).items()):
        store = RunStore(folder / key)
        # a reference takes more updates than the others: it would squeeze their curves
        if store.config_path.exists() and store.read_record().reference is None:
            of_scenario[str(store.read_config()["scenario"])].append(run)
    links = {}
    for scenario, ids in of_scenario.items():
        for metric, address in chart_links(target, ids, CURVES).items():
            name = "all charts" if metric == "compare" else f"{scenario}: {metric}"
            links[name] = host.rstrip("/") + address
    return links
