"""Cells as tasks on a cluster of Ray's, at $RAY_ADDRESS."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from clframe.errors import ConfigError
from clframe.grid.engines import Engine, Resources, unsupervised
from clframe.grid.supervise import CellOutcome, Follower, supervise
from clframe.grid.view import View
from clframe.tracking.store import RunStore


class RayEngine(Engine):
    """Cells on a cluster of Ray's, which finds each its processors.

    What they write is sent to MLflow from here: importing it in each worker takes as long as a
    small cell does.
    """

    def run(
        self, cells: Sequence[Path], resources: Mapping[Path, Resources]
    ) -> Generator[CellOutcome, None, None]:
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
                        view = View(self.stores.get(folder), folder)
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
                        watched.view.push()
            finally:
                _cancel(ray, running)
                for watched in running.values():
                    watched.finish()


class _Watched(NamedTuple):
    """A cell on its way: how far it has come, and how MLflow shows it."""

    follow: Follower
    view: View

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
        return unsupervised(store, error)


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
    """Ray at $RAY_ADDRESS, without its dashboard, its reports home and its chatter."""
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        ("RAY_DEDUP_LOGS", "0"),
    ):
        os.environ.setdefault(name, value)
    import ray

    address = os.environ["RAY_ADDRESS"]
    made: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, workers),
        "include_dashboard": False,
    }
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(made if address == "local" else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"RAY_ADDRESS = {address!r}: no cluster answers there: {str(error).splitlines()[0]}\n"
            "Start one with `ray start --head`, or unset RAY_ADDRESS to use this machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
