"""A grid from its file to its last cell: show, check, run what is missing, fill in references."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from clframe.config.grid import GridSpec, load_grid
from clframe.config.identity import run_id, to_yaml
from clframe.config.schema import RunConfig
from clframe.errors import ConfigError
from clframe.grid.cluster import RayEngine
from clframe.grid.crowding import crowding
from clframe.grid.display import Display, Intent, Planned, failures, say, table, total
from clframe.grid.engines import Engine, LocalEngine, Resources
from clframe.grid.launch import Launch, environment, start_server
from clframe.grid.preflight import preflight
from clframe.grid.stores import Stores, opened
from clframe.grid.supervise import BAD_INPUT, CellOutcome, Progress, held
from clframe.grid.team import outside, take_part
from clframe.grid.view import deliver, owed
from clframe.registry import snapshot
from clframe.tracking.files import replace_file
from clframe.tracking.store import RunStore

SOLO = "solo"  # the folder of runs that belong to no grid
INTERRUPTED = 130
INTENT: dict[str, Intent] = {
    "done": "done",
    "missing": "to run",
    "interrupted": "resume",
    "failed": "retry",
}


def run_grid(
    spec: GridSpec,
    runs: Path,
    workers: int = 1,
    console: Console | None = None,
    *,
    dry_run: bool = False,
    launch: Launch | None = None,
) -> int:
    """Run what is missing of a grid; returns 0 when every cell is done, else 1.

    The last line on the console is the grid's folder. `launch` replaces how cells are started, and
    leaves out the check that builds them beforehand.
    """
    console = console or Console()
    folder = runs / spec.name
    cells = _announced(spec, folder, console)
    if dry_run:
        say(console, str(folder))
        return 0
    todo = [c for c in cells if c.intent not in ("done", "running")]
    with opened(runs, [c.cfg for c in todo]) as stores:
        if launch is None and todo:
            start_server(environment(max(c.cfg.threads for c in todo)))
            preflight([c.cfg for c in todo])
        stores.insist()
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "grid.yaml", spec.to_yaml())
        outcomes, code = _run(todo, stores, workers, console, spec.name, launch)
        from clframe.grid import references

        changed = set(references.update(folder))
        _deliver([c for c in cells if c.folder in changed or owed(c.folder)], stores, console)
    left = plan([c.cfg for c in cells], folder)
    for line in [*failures(outcomes), *_given_up(todo), total(left)]:
        say(console, line)
    if code == INTERRUPTED:
        say(console, "interrupted; the same command goes on from here")
    say(console, str(folder))
    return code or int(any(c.intent != "done" for c in left))


def _announced(spec: GridSpec, folder: Path, console: Console) -> list[Planned]:
    """What is to be done about each cell and each run beside them, shown before it begins."""
    own, companions = spec.cells(), spec.companions()
    cells = plan([*own, *companions], folder)
    if any(outside(c.cfg) for c in cells):
        raise ConfigError(
            "a grid starts the ranks of its cells itself, on one machine: start it without "
            "torchrun or srun; for num_nodes above 1, use `clframe run` for each cell."
        )
    notes = [f"note: {n}" for n in spec.notices]
    if companions:
        notes.append(f"note: {len(companions)} more runs for the audit: retrained, and never asked")
    shown = table(cells[: len(own)], spec.axes, spec.included_keys())
    for line in [*shown, *notes, total(cells)]:
        say(console, line)
    return cells


def run_one(
    cfg: RunConfig, runs: Path, console: Console | None = None, *, launch: Launch | None = None
) -> int:
    """Run, or resume, a single run; returns 0 done, 1 failed, 2 when its input turned out bad.

    The last line on the console is the run's folder.
    """
    console = console or Console()
    (cell,) = plan([cfg], runs / SOLO)
    fresh = not cell.folder.exists()
    place = outside(cfg)
    if place is not None and place.rank:  # the process of rank 0 shows and tells everything
        with _terminable():
            return 0 if cell.intent == "done" else take_part(cfg, cell.folder)
    if cell.intent not in ("done", "running"):
        with opened(runs, [cfg]) as stores:
            stores.insist()
            outcomes, code = _run([cell], stores, 1, console, SOLO, launch)
        if code != INTERRUPTED and outcomes[0].rc == BAD_INPUT:
            raise ConfigError(_refusal(cell.folder, fresh) or outcomes[0].error or "bad input")
        if code == INTERRUPTED:
            say(console, "interrupted; the same command goes on from here")
        elif outcomes[0].status == "failed":
            say(console, f"log: {outcomes[0].log_path}")
        elif outcomes[0].status == "running":
            say(console, f"{run_id(cfg)} is running already, started by another process")
    else:
        code = 0
        say(console, f"{run_id(cfg)} is {cell.intent}" + " already" * (cell.intent == "done"))
    for line in _given_up([cell]):
        say(console, line)
    (left,) = plan([cfg], runs / SOLO)
    if left.intent == "done":
        say(console, _result(left.folder))
    say(console, str(left.folder))
    return code or int(left.intent != "done")


def show_audit(folder: Path, console: Console | None = None) -> None:
    """Send MLflow what it lacks of the cells of a grid's folder, as after an audit."""
    cells = plan(load_grid(folder / "grid.yaml").cells(), folder)
    late = [c for c in cells if owed(c.folder)]
    with opened(folder.parent, [c.cfg for c in late]) as stores:
        _deliver(late, stores, console or Console())


def plan(cells: Sequence[RunConfig], folder: Path) -> list[Planned]:
    """What is to be done about each cell, judged from the folders alone."""
    planned = []
    with snapshot():
        folders = [folder / run_id(cfg) for cfg in cells]
    for cfg, at in zip(cells, folders, strict=True):
        state = RunStore(at).state() if at.exists() else "missing"
        if state == "running":
            intent: Intent = "running" if held(at) else "resume"
        else:
            intent = INTENT[state]
        planned.append(Planned(cfg, at, intent))
    return planned


def write_config(cfg: RunConfig, folder: Path) -> None:
    """Put the resolved configuration where the cell reads it; makes the folder."""
    RunStore(folder).write_config(yaml.safe_load(to_yaml(cfg)))


def _run(
    todo: Sequence[Planned],
    stores: Stores,
    workers: int,
    console: Console,
    label: str,
    launch: Launch | None,
) -> tuple[list[CellOutcome], int]:
    """Run the cells; returns how they ended, and INTERRUPTED or 0."""
    outcomes: list[CellOutcome] = []
    if not todo:
        return outcomes, 0
    warning = crowding([c.cfg for c in todo], workers)  # before we add to the load
    resources, find = {}, {}
    for cell in todo:
        write_config(cell.cfg, cell.folder)
        cfg = cell.cfg
        resources[cell.folder] = Resources(cfg.threads * cfg.devices, cfg.devices, cfg.accelerator)
        find[cell.folder] = stores.find(cfg.track)
    far = workers > 1 and os.environ.get("RAY_ADDRESS")
    make: type[Engine] = RayEngine if far else LocalEngine
    with Display(console, len(todo), label, warning) as display:
        try:
            with _terminable() as insist:

                def step(progress: Progress) -> None:
                    insist()
                    display.step(progress)

                engine = make(workers, find, step, launch)
                with closing(engine.run(list(find), resources)) as ended:
                    for outcome in ended:
                        outcomes.append(outcome)
                        if label != SOLO or outcome.rc != BAD_INPUT:  # which is told as an error
                            display.end(outcome)
        except KeyboardInterrupt:
            return outcomes, INTERRUPTED
    return outcomes, 0


def _deliver(cells: Sequence[Planned], stores: Stores, console: Console) -> None:
    """Send MLflow what changed after a run ended, and what it could not take before."""
    late = [c.folder for c in cells if not deliver(c.folder, stores.find(c.cfg.track))]
    if late:
        say(console, f"MLflow did not take {len(late)} runs yet; the same command tries again")


def _refusal(folder: Path, fresh: bool) -> str:
    """Why the cell in `folder` could not begin; what it left is taken away."""
    path = RunStore(folder).refusal_path
    said = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    if fresh and not RunStore(folder).checkpoint_path.exists():
        shutil.rmtree(folder)
    return said


def _given_up(cells: Sequence[Planned]) -> list[str]:
    """A note on each cell whose way of counting did not stand its proof."""
    known = [RunStore(c.folder) for c in cells]
    facts = [s.read_record().counting if s.record_path.exists() else {} for s in known]
    pairs = zip(known, facts, strict=True)
    return [f"note: {s.folder.name}: {f['fallback']}" for s, f in pairs if f.get("fallback")]


def _result(folder: Path) -> str:
    """The numbers one looks at first."""
    record = RunStore(folder).read_record()
    names = {"acc": "acc_final", "min-acc": "min_acc_final", "forgetting": "forg_final"}
    values = {shown: record.metrics.get(key) for shown, key in names.items()}
    shown = [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
    return "  ".join(["done", *shown, f"({record.seconds.get('total', 0.0):.1f} s)"])


@contextmanager
def _terminable() -> Iterator[Callable[[], None]]:
    """Treat a polite kill of this process as Ctrl-C, so that no cell is left alone.

    Call what it yields now and then: it raises again what was lost. Python ignores an exception
    that a signal raises inside a garbage collector's callback or a `__del__`.
    """
    told: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        told.append(number)
        raise KeyboardInterrupt

    def insist() -> None:
        if told:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield insist
        return
    kinds = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody's own, or off
        kinds.append(signal.SIGINT)
    before = {kind: signal.signal(kind, interrupt) for kind in kinds}
    try:
        yield insist
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
