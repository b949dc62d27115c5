"""The slow part of preparing a store, done beside other work: MLflow's import, a new database."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clframe.tracking.mlflow.target import client, database_of, hush, migrate

log = logging.getLogger(__name__)


class Draft:
    """An empty database in the making, in a folder of its own: nothing is there for others yet."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / "empty.db"
        self._thread: threading.Thread | None = None

    def begin(self, database: Path | None) -> None:
        """Start, for a store in `database`; None for one that a server keeps."""
        hush()  # here: what a thread did to the environment could be lost
        self._thread = threading.Thread(target=self._make, args=(database,), daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether it is still in the making."""
        return self._thread is not None and self._thread.is_alive()

    def path(self) -> Path | None:
        """The finished database, once it is; None where none was needed, or it failed."""
        if self._thread is not None:
            self._thread.join()
        return self._path if self._path.is_file() else None

    def _make(self, database: Path | None) -> None:
        try:
            if database is not None and not database.is_file():
                database = self._path.with_name("warm.db")
                migrate(f"sqlite:///{database}")
                half = self._path.with_suffix(".half")
                shutil.copyfile(database, half)
                half.rename(self._path)
            if database is not None:  # the first question of all takes a second
                client(f"sqlite:///{database}").get_experiment_by_name("")
        except Exception as error:  # whoever prepares the store meets it again, and reports it
            log.debug("no store was made ahead: %s", error)


@contextmanager
def drafting(runs: Path, uri: str | None) -> Iterator[Draft]:
    """Begin a draft of the store at `uri`; it is gone at the end of the block.

    One that nobody has waited for goes with the program: taken away now, it would complain.
    """
    scratch = Path(tempfile.mkdtemp(prefix="clframe-"))
    draft = Draft(scratch)
    draft.begin(database_of(runs, uri))
    try:
        yield draft
    finally:
        if draft.busy:
            atexit.register(_abandon, scratch)
        else:
            shutil.rmtree(scratch, ignore_errors=True)


def _abandon(scratch: Path) -> None:
    logging.disable()
    shutil.rmtree(scratch, ignore_errors=True)
