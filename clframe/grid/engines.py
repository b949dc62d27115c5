"""Where cells run: one after the other from here, or many at once as Ray tasks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from clframe.errors import ConfigError
from clframe.grid.launch import Launch
from clframe.grid.supervise import (
    CellOutcome,
    Follower,
    OnProgress,
    View,
    quiet,
    supervise,
)
from clframe.tracking.store import RunStore

if TYPE_CHECKING:
    from clframe.tracking.mlflow import Target

Targets = Mapping[Path, "Target | None"]


class Resources(NamedTuple):
    """What one cell occupies."""

    cpus: int
    devices: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    def gpus(self, there: float, workers: int) -> float:
        """How many of the GPUs `there` to ask for; the workers share those that are too few."""
        if self.accelerator == "cpu" or (self.accelerator == "auto" and not there):
            return 0.0
        return 1.0 if not there else self.devices * min(1.0, there / workers)


class Engine(Protocol):
    """Runs cells and yields each outcome as it comes; no outcome ends the others."""

    def run(
        self, cells: Sequence[Path], resources: Mapping[Path, Resources]
    ) -> Iterator[CellOutcome]: ...


class InlineEngine:
    """One cell at a time, supervised by this process."""

    def __init__(
        self, targets: Targets, on_progress: OnProgress = quiet, launch: Launch | None = None
    ) -> None:
        self.targets, self.on_progress, self.launch = targets, on_progress, launch

    def run(
        self, cells: Sequence[Path], resources: Mapping[Path, Resources]
    ) -> Iterator[CellOutcome]:
        for folder in cells:
            target = self.targets.get(folder)
            try:
                outcome = supervise(folder, target, self.on_progress, launch=self.launch)
            except Exception as error:
                outcome = _unsupervised(RunStore(folder), error)
            yield outcome


class RayEngine:
    """Up to `workers` cells at once; Ray finds each its processors and replaces lost workers.

    What they write is sent to MLflow from here: importing it in each worker takes as long as a
    small cell does.
    """

    def __init__(
        self,
        workers: int,
        targets: Targets,
        on_progress: OnProgress = quiet,
        launch: Launch | None = None,
    ) -> None:
        self.workers, self.targets = workers, targets
        self.on_progress, self.launch = on_progress, launch

    def run(
        self, cells: Sequence[Path], resources: Mapping[Path, Resources]
    ) -> Iterator[CellOutcome]:
        with _ray(self.workers) as ray:
            shares = _shares(ray.cluster_resources(), resources, self.workers)
            task = ray.remote(supervise)
            waiting, running, ended = list(cells), dict[Any, _Watched](), list[Any]()
            try:
                while waiting or running:
                    while waiting and len(running) - len(ended) < self.workers:
                        folder = waiting.pop(0)
                        placed = task.options(
                            name=folder.name,
                            max_retries=2,  # for lost workers; supervise resumes killed cells
                            **shares[folder],
                        )
                        ref = placed.remote(folder, None, launch=self.launch)
                        view = View(self.targets.get(folder), folder)
                        running[ref] = _Watched(Follower(folder), view)
                    for ref in ended:  # while the next one starts
                        watched = running.pop(ref)
                        outcome = _collect(ray, ref, watched.follow.store)
                        watched.finish()
                        yield outcome
                    ended = []
                    if running:
                        ended, _ = ray.wait(list(running), num_returns=1, timeout=0.25)
                    for watched in running.values():
                        self.on_progress(watched.follow())
                        watched.push()
            finally:
                _cancel(ray, running)
                for watched in running.values():
                    watched.finish()


class _Watched(NamedTuple):
    """A cell on its way: how far it has come, and how MLflow shows it."""

    follow: Follower
    view: View

    def push(self) -> None:
        if self.follow.store.journal_path.exists():  # its supervisor has begun the record by then
            self.view.push()

    def finish(self) -> None:
        """Tell MLflow what the record says; of a cell that others have in hand, they tell."""
        store = self.follow.store
        if store.record_path.exists() and (status := store.read_record().status) != "running":
            self.view.finish(status)


def _collect(ray: Any, ref: Any, store: RunStore) -> CellOutcome:
    """The outcome of an ended task, whichever way it ended."""
    try:
        outcome: CellOutcome = ray.get(ref)
        return outcome
    except ray.exceptions.RayError as error:
        return _unsupervised(store, error)


def _unsupervised(store: RunStore, error: Exception) -> CellOutcome:
    """The outcome of a cell whose supervision itself broke: failed, and the others go on."""
    lines = str(error).strip().splitlines() or [""]
    said, attempts = f"{type(error).__name__}: {lines[-1]}", 0
    if store.record_path.exists():
        attempts = store.update_record(status="failed", error=said).attempts
    return CellOutcome(store.folder.name, "failed", None, store.log_path, attempts, said)


def _cancel(ray: Any, running: Mapping[Any, _Watched]) -> None:
    """Let the supervisors of running cells stop them and say so."""
    for ref in running:
        ray.cancel(ref)
    deadline = time.monotonic() + 10.0
    left = list(running)
    while left and time.monotonic() < deadline:
        _, left = ray.wait(left, num_returns=len(left), timeout=0.5)


def _shares(
    has: Mapping[str, float], resources: Mapping[Path, Resources], workers: int
) -> dict[Path, dict[str, float]]:
    """What to ask Ray for, cell by cell; what it can never give is an error, not a long wait."""
    has_cpus, has_gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    shares = {}
    for folder, need in resources.items():
        gpus = need.gpus(has_gpus, workers)
        if need.cpus > has_cpus or gpus > has_gpus:
            raise ConfigError(
                f"{folder.name} needs {need.cpus} CPUs and {gpus:g} GPUs at once, and there are "
                f"{has_cpus:g} and {has_gpus:g}.\nLower threads or devices, or use --workers 1."
            )
        shares[folder] = {"num_cpus": float(need.cpus), "num_gpus": gpus}
    return shares


@contextmanager
def _ray(workers: int) -> Iterator[Any]:
    """Ray on this machine, without its dashboard, its reports home and its chatter."""
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        ("RAY_DEDUP_LOGS", "0"),
    ):
        os.environ.setdefault(name, value)
    import ray

    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, workers),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield ray
    finally:
        ray.shutdown()
