"""A run as MLflow shows it, sent from beside the cell: no trouble there is a cell's trouble."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clframe.errors import ClframeError
from clframe.tracking.store import RunStore

if TYPE_CHECKING:
    from clframe.tracking.mlflow import RunUploader, Target

log = logging.getLogger(__name__)

PUSH = 2.0  # seconds between two deliveries

Ending = Literal["done", "failed", "interrupted"]
Find = Callable[[], "Target | None"]  # the store, made when it is first needed


class View:
    """The run as MLflow shows it; nothing, where `find` is None. What goes wrong is a warning."""

    def __init__(self, find: Find | None, folder: Path) -> None:
        self.folder, self.find = folder, find
        self.pending = RunStore(folder).pending_path
        self.pushed = time.monotonic()
        self._uploader: RunUploader | None = None
        self._warned = ""
        if find is not None:
            self.pending.touch()

    def push(self) -> None:
        """Send what the cell has written, now and then, once it has begun to write."""
        if self.find is None or time.monotonic() - self.pushed < PUSH:
            return
        if RunStore(self.folder).journal_path.exists():
            try:
                self.uploader.push()
            except Exception as error:  # no view of a run is worth the run
                self._warn(error)
        self.pushed = time.monotonic()

    def finish(self, status: Ending) -> bool:
        """Send the rest and how it ended; whether nothing is owed any more."""
        if self.find is None:
            return True
        try:
            taken = self.uploader.finish(status)
        except Exception as error:
            self._warn(error)
            return False
        if taken:
            self.pending.unlink(missing_ok=True)
        return taken

    def drop(self) -> None:
        """Owe nothing."""
        self.pending.unlink(missing_ok=True)

    @property
    def uploader(self) -> RunUploader:
        if self._uploader is None:
            from clframe.tracking.mlflow import RunUploader

            target = self.find() if self.find is not None else None
            if target is None:
                raise ClframeError("there is no store")
            self._uploader = RunUploader(target, self.folder)
        return self._uploader

    def _warn(self, error: Exception) -> None:
        if str(error) != self._warned:
            self._warned = str(error)
            log.warning("%s is not shown in MLflow: %s", self.folder.name, error)


def deliver(folder: Path, find: Find | None) -> bool:
    """Send a finished run to MLflow again, after its numbers changed or the store was away."""
    status = RunStore(folder).read_record().status
    return status == "running" or View(find, folder).finish(status)


def owed(folder: Path) -> bool:
    """Whether MLflow has not yet taken all of this run."""
    return RunStore(folder).pending_path.exists()
