"""A grid from its file to its last cell: show, check, run what is missing, fill in references."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from clframe.config.grid import GridSpec
from clframe.config.identity import run_id, to_yaml
from clframe.config.schema import RunConfig
from clframe.errors import ConfigError
from clframe.grid.crowding import crowding
from clframe.grid.display import Display, Intent, Planned, failures, say, table, total
from clframe.grid.engines import Engine, InlineEngine, RayEngine, Resources
from clframe.grid.launch import Launch, environment, start_server
from clframe.grid.preflight import preflight
from clframe.grid.supervise import CellOutcome, deliver, held, owed
from clframe.registry import snapshot
from clframe.tracking.files import replace_file
from clframe.tracking.store import RunStore

if TYPE_CHECKING:
    from clframe.tracking.mlflow import Target

Targets = dict[Path, "Target | None"]

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
    cells = plan(spec.cells(), folder)
    for line in [*table(cells, spec.axes), *(f"note: {n}" for n in spec.notices), total(cells)]:
        say(console, line)
    if dry_run:
        say(console, str(folder))
        return 0
    todo = [c for c in cells if c.intent not in ("done", "running")]
    targets = _ready(todo, runs, workers, check=launch is None)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "grid.yaml", spec.to_yaml())
    outcomes, code = _run(todo, targets, workers, console, spec.name, launch)
    from clframe.grid import references

    changed = set(references.update(folder))
    _deliver([c for c in cells if c.folder in changed or owed(c.folder)], runs, console)
    left = plan([c.cfg for c in cells], folder)
    for line in [*failures(outcomes), *_given_up(todo), total(left)]:
        say(console, line)
    if code == INTERRUPTED:
        say(console, "interrupted; the same command goes on from here")
    say(console, str(folder))
    return code or int(any(c.intent != "done" for c in left))


def run_one(
    cfg: RunConfig, runs: Path, console: Console | None = None, *, launch: Launch | None = None
) -> int:
    """Run, or resume, a single run; returns 0 done, 1 failed, 2 when its input turned out bad.

    The last line on the console is the run's folder.
    """
    console = console or Console()
    (cell,) = plan([cfg], runs / SOLO)
    fresh = not cell.folder.exists()
    if cell.intent not in ("done", "running"):
        targets = _ready([cell], runs, 1, check=launch is None)
        outcomes, code = _run([cell], targets, 1, console, SOLO, launch)
        if code != INTERRUPTED and outcomes[0].rc == 2:
            if fresh and not (cell.folder / "last.ckpt").exists():
                shutil.rmtree(cell.folder)
            raise ConfigError(outcomes[0].error or "bad input")
        if code != INTERRUPTED and outcomes[0].status == "failed":
            say(console, f"log: {outcomes[0].log_path}")
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


def _ready(todo: Sequence[Planned], runs: Path, workers: int, *, check: bool) -> Targets:
    """Build every cell before any starts; meanwhile this process opens MLflow's store."""
    if not todo:
        return {}
    warning = crowding([c.cfg for c in todo], workers)  # before we add to the load
    if check:
        start_server(environment(max(c.cfg.threads for c in todo)))
    with _draft(todo, runs) as draft:
        if check:
            preflight([c.cfg for c in todo])
        targets = _targets(todo, runs, draft)
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return targets


@contextmanager
def _draft(todo: Sequence[Planned], runs: Path) -> Iterator[Callable[[], Path | None]]:
    """A new MLflow store in the making, for the first cell that is shown in one."""
    track = next((c.cfg.track for c in todo if c.cfg.track.enabled), None)
    if track is None:
        yield lambda: None
        return
    from clframe.tracking.mlflow import drafting

    with drafting(runs, track.uri) as draft:
        yield draft.path


def _targets(
    cells: Sequence[Planned], runs: Path, draft: Callable[[], Path | None] = lambda: None
) -> Targets:
    """The MLflow store of each cell, made and migrated here, before any worker looks at it."""
    made: dict[tuple[str | None, str], Any] = {}
    targets: Targets = {}
    for cell in cells:
        track = cell.cfg.track
        if track.enabled and (track.uri, track.experiment) not in made:
            from clframe.tracking.mlflow import prepare

            made[track.uri, track.experiment] = prepare(runs, track.uri, track.experiment, draft)
        targets[cell.folder] = made[track.uri, track.experiment] if track.enabled else None
    return targets


def _run(
    todo: Sequence[Planned],
    targets: Targets,
    workers: int,
    console: Console,
    label: str,
    launch: Launch | None,
) -> tuple[list[CellOutcome], int]:
    """Run the cells; returns how they ended, and INTERRUPTED or 0."""
    outcomes: list[CellOutcome] = []
    resources = {}
    for cell in todo:
        write_config(cell.cfg, cell.folder)
        cfg = cell.cfg
        resources[cell.folder] = Resources(cfg.threads * cfg.devices, cfg.devices, cfg.accelerator)
    if not todo:
        return outcomes, 0
    with Display(console, len(todo), label) as display:
        engine: Engine = (
            InlineEngine(targets, display.step, launch)
            if workers == 1
            else RayEngine(workers, targets, display.step, launch)
        )
        try:
            with _terminable():
                for outcome in engine.run([c.folder for c in todo], resources):
                    outcomes.append(outcome)
                    display.end(outcome)
        except KeyboardInterrupt:
            return outcomes, INTERRUPTED
    return outcomes, 0


def _deliver(cells: Sequence[Planned], runs: Path, console: Console) -> None:
    """Send MLflow what changed after a run ended, and what it could not take before."""
    targets = _targets(cells, runs)
    late = [c.folder for c in cells if not deliver(c.folder, targets[c.folder])]
    if late:
        say(console, f"MLflow did not take {len(late)} runs yet; the same command tries again")


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
def _terminable() -> Iterator[None]:
    """Treat a polite kill of this process as Ctrl-C, so that no cell is left alone."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
