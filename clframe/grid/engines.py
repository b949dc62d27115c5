"""Where cells run: so many at a time on this machine; on a cluster, see `grid.cluster`."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from clframe.grid.launch import Launch
from clframe.grid.supervise import POLL, Attending, CellOutcome, OnProgress, attend, quiet
from clframe.grid.view import Find
from clframe.tracking.store import RunStore

Stores = Mapping[Path, "Find | None"]


class Resources(NamedTuple):
    """What one cell occupies."""

    cpus: int
    devices: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    def visible_gpus(self, place: int, workers: int) -> str | None:
        """The GPUs, as CUDA_VISIBLE_DEVICES, of the cell at `place`; None where it may see all."""
        if self.accelerator == "cpu" or workers == 1:
            return None
        names = gpu_names()
        if not names:
            return None
        mine = range(place * self.devices, (place + 1) * self.devices)
        return ",".join(dict.fromkeys(names[i % len(names)] for i in mine))

    def gpus(self, there: float, workers: int) -> float:
        """How many of the GPUs `there` to ask for; the workers share those that are too few."""
        if self.accelerator == "cpu" or (self.accelerator == "auto" and not there):
            return 0.0
        return 1.0 if not there else self.devices * min(1.0, there / workers)


@functools.cache
def gpu_names() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that we may use, without loading torch."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return tuple(name.strip() for name in told.split(",") if name.strip())
    listing = shutil.which("nvidia-smi")
    if listing is None:
        return ()
    done = subprocess.run([listing, "--list-gpus"], capture_output=True, text=True)
    count = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return tuple(map(str, range(count))) if not done.returncode else ()


class Engine(ABC):
    """Runs up to `workers` cells at once."""

    def __init__(
        self,
        workers: int,
        stores: Stores,
        on_progress: OnProgress = quiet,
        launch: Launch | None = None,
    ) -> None:
        self.workers, self.stores = workers, stores
        self.on_progress, self.launch = on_progress, launch

    @abstractmethod
    def run(
        self, cells: Sequence[Path], resources: Mapping[Path, Resources]
    ) -> Generator[CellOutcome, None, None]:
        """Each outcome as it comes; none ends the others."""


class LocalEngine(Engine):
    """Cells on this machine, all of them in this process's hands.

    GPUs are dealt out to the workers in turn; those that are too few are shared.
    """

    def run(
        self, cells: Sequence[Path], resources: Mapping[Path, Resources]
    ) -> Generator[CellOutcome, None, None]:
        waiting, places = list(cells), dict[Path, int]()
        running: dict[Path, Attending] = {}
        try:
            while waiting or running:
                while waiting and len(places) < self.workers:
                    folder = waiting.pop(0)
                    places[folder] = min(set(range(self.workers)) - set(places.values()))
                    running[folder] = self._start(folder, resources[folder], places[folder])
                for folder in list(running):
                    outcome = self._step(folder, running[folder], places)
                    if outcome is not None:
                        places.pop(folder, None)
                        del running[folder]
                        yield outcome
                if running:
                    time.sleep(POLL)
        finally:
            for attending in running.values():
                attending.close()

    def _start(self, folder: Path, needs: Resources, place: int) -> Attending:
        visible = needs.visible_gpus(place, self.workers)
        extra = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        find = self.stores.get(folder)
        return attend(folder, find, self.on_progress, launch=self.launch, extra=extra)

    def _step(
        self, folder: Path, attending: Attending, places: dict[Path, int]
    ) -> CellOutcome | None:
        """Look after a cell; its place is free once it has ended, though MLflow may want more."""
        try:
            if not next(attending):
                places.pop(folder)
        except StopIteration as end:
            outcome: CellOutcome = end.value
            return outcome
        except Exception as error:
            return unsupervised(RunStore(folder), error)
        return None


def unsupervised(store: RunStore, error: Exception) -> CellOutcome:
    """The outcome of a cell whose supervision itself broke: failed, and the others go on."""
    lines = str(error).strip().splitlines() or [""]
    said, attempts = f"{type(error).__name__}: {lines[-1]}", 0
    if store.record_path.exists():
        attempts = store.update_record(status="failed", error=said).attempts
    return CellOutcome(store.folder.name, "failed", None, store.log_path, attempts, said)
