"""One cell from its folder to its results: the entry of the process that a supervisor starts."""

from __future__ import annotations

import logging
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path

from clframe import ranks
from clframe.config.identity import from_yaml
from clframe.core import dist
from clframe.engine.results import finish
from clframe.engine.session import Run
from clframe.errors import ClframeError
from clframe.tracking.store import RunStore


def run_cell(folder: Path) -> int:
    """Run, or resume, the cell in `folder`; returns its exit code (0 done, 1 failed, 2 bad input).

    Everything it finds out goes to the folder; what goes wrong, to the record and the log.
    """
    store = RunStore(folder)
    main = ranks.rank() == 0
    _quieten()
    begun, run = False, None
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
            dist.leave()  # not after a failure: to part from others who wait may take for ever
            return 0
        except ClframeError as error:
            return _failed(store, str(error), 1 if begun else 2)
        except Exception as error:
            if dist.lost(error):
                return _failed(store, _waited(error, run), ranks.LOST)
            return _failed(store, f"{type(error).__name__}: {error}", 1)


def _failed(store: RunStore, message: str, code: int) -> int:
    traceback.print_exc()
    if dist.world() > 1 or ranks.rank():
        store.note(ranks.rank(), message, lost=code == ranks.LOST)
    if ranks.rank() == 0:
        store.update_record(status="failed", error=message)
        if code == 2:
            store.refusal_path.write_text(message)
    return code


def _waited(error: Exception, run: Run | None) -> str:
    """Which rank waited for the others, when, and in which line of ours or of the strategy's."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename]
    places = [f"{f.name} ({Path(f.filename).name}:{f.lineno})" for f in ours[-3:]]
    when = f"at iteration {run.position.iteration}" if run is not None else "at the start"
    said = str(error).strip().splitlines()
    return (
        f"rank {ranks.rank()} waited in vain for the other ranks {when}, in {' > '.join(places)}: "
        f"{said[0] if said else type(error).__name__}"
    )


def _quieten() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
