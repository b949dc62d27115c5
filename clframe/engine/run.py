"""One cell from its folder to its results: the entry of the process that a supervisor starts."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path

from clframe.config.identity import from_yaml
from clframe.engine.results import finish
from clframe.engine.session import Run
from clframe.errors import ClframeError
from clframe.tracking.store import RunStore


def run_cell(folder: Path) -> int:
    """Run, or resume, the cell in `folder`; returns its exit code (0 done, 1 failed, 2 bad input).

    Everything it finds out goes to the folder; what goes wrong, to the record and the log.
    """
    store = RunStore(folder)
    main = int(os.environ.get("LOCAL_RANK", 0)) == 0
    _quieten()
    begun = False
    with store.heartbeat() if main else nullcontext():
        try:
            if main:
                attempts = store.read_record().attempts + 1
                store.update_record(status="running", error=None, attempts=attempts)
            run = Run(from_yaml(store.config_path), store, main)
            begun = True  # from here on there is something to lose: not bad input any more
            run.all()
            if main:
                finish(store, run.stream, run.strategy.reference)
            return 0
        except ClframeError as error:
            return _failed(store, main, str(error), 1 if begun else 2)
        except Exception as error:
            return _failed(store, main, f"{type(error).__name__}: {error}", 1)


def _failed(store: RunStore, main: bool, message: str, code: int) -> int:
    traceback.print_exc()
    if main:
        store.update_record(status="failed", error=message)
        if code == 2:
            store.refusal_path.write_text(message)
    return code


def _quieten() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
