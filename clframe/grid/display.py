"""What a person sees of a grid: its cells before the start, bars while it runs, every end."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from clframe.config.problems import MISSING, brief, look_up
from clframe.config.requests import in_words
from clframe.config.schema import RunConfig
from clframe.grid.supervise import CellOutcome
from clframe.grid.supervise import Progress as Step

Intent = Literal["done", "to run", "resume", "retry", "running"]
NAMED = ("scenario", "strategy", "seed")
INTENTS: tuple[Intent, ...] = ("done", "to run", "resume", "retry", "running")


class Planned(NamedTuple):
    """A cell, its folder, and what is to be done about it."""

    cfg: RunConfig
    folder: Path
    intent: Intent


def say(console: Console, text: str = "") -> None:
    """One line as it is: never wrapped, never styled."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def table(cells: Sequence[Planned], axes: Iterable[str], more: Iterable[str] = ()) -> list[str]:
    """The cells as lines: what they have in common once, their seeds under what will happen.

    A column for each of `axes`; what a cell has of the keys `more` goes into one together.
    """
    keys = ["scenario", "strategy", *(a for a in axes if a not in NAMED)]
    extra = [key for key in more if key not in keys and key not in NAMED]
    rows: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        facts = cell.cfg.model_dump()
        shown = [look_up(facts, key) for key in keys]
        row = tuple(_shown(k, v) for k, v in zip(keys, shown, strict=True))
        row += (_settings(cell.cfg, extra),) if extra else ()
        rows[row][cell.intent].append(cell.cfg.seed)
    used = [i for i in INTENTS if any(row[i] for row in rows.values())]
    head = [
        *keys,
        *(["settings"] if extra else []),
        *(f"{i} (seeds)" if i == used[0] else i for i in used),
    ]
    body = [[*row, *(" ".join(map(str, at[i])) or "-" for i in used)] for row, at in rows.items()]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in [head, *body]]


def _shown(key: str, value: Any) -> str:
    if key == "requests" and isinstance(value, list):
        return in_words(value)
    if isinstance(value, str):
        return value
    return "-" if value is MISSING else brief(value)


def _settings(cfg: RunConfig, keys: Iterable[str]) -> str:
    """`replay.capacity=200 optim.lr=0.1`: what a cell sets of `keys`."""
    facts = cfg.model_dump(exclude_defaults=True)
    found = {key.removeprefix("options."): look_up(facts, key) for key in keys}
    given = {k: v for k, v in found.items() if v is not MISSING}
    return (
        " ".join(f"{k}={_shown(k, v) if k == 'requests' else brief(v)}" for k, v in given.items())
        or "-"
    )


def total(cells: Sequence[Planned]) -> str:
    """`24 cells: 3 done, 20 to run, 1 to retry`."""
    count = Counter(c.intent for c in cells)
    words = {"resume": "to resume", "retry": "to retry (failed)", "running": "running elsewhere"}
    parts = [f"{count['done']} done", f"{count['to run']} to run"]
    parts += [f"{count[i]} {words[i]}" for i in INTENTS[2:] if count[i]]
    return f"{len(cells)} cell{'s' * (len(cells) != 1)}: {', '.join(parts)}"


class Display:
    """Bars on a terminal's standard error; elsewhere a line on standard output per ended cell."""

    def __init__(
        self, console: Console, num_cells: int, label: str, warning: str | None = None
    ) -> None:
        self.console, self.num_cells, self.warning = console, num_cells, warning
        self.ended, self.began = 0, time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.whole = self.bars.add_task(f"{label} (cells)", total=num_cells)

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def step(self, step: Step) -> None:
        """Move the bar of a running cell; with the first that has begun, say the warning."""
        if self.warning is not None and step.total:
            say(self.bars.console, f"warning: {self.warning}")
            self.warning = None
        if step.key not in self.tasks:
            self.tasks[step.key] = self.bars.add_task(step.key, total=None)
        done = max(step.total, step.iteration) or None
        self.bars.update(self.tasks[step.key], completed=step.iteration, total=done)

    def end(self, outcome: CellOutcome) -> None:
        """Take the cell's bar away and say how it ended, where no bar does, or where it failed."""
        self.ended += 1
        if outcome.key in self.tasks:
            self.bars.remove_task(self.tasks.pop(outcome.key))
        self.bars.update(self.whole, completed=self.ended)
        if outcome.status != "done" or not self.console.is_terminal:
            to: Any = self.bars.console if self.console.is_terminal else self.console
            seconds = time.monotonic() - self.began
            at = f"[{self.ended}/{self.num_cells}] {seconds:6.1f} s"
            say(to, f"{at}  {outcome.status:8} {outcome.key}{_why(outcome)}")


def failures(outcomes: Iterable[CellOutcome]) -> list[str]:
    """What went wrong in which cell, and where its log is."""
    lines = []
    for outcome in outcomes:
        if outcome.status in ("failed", "interrupted"):
            lines += [
                f"{outcome.status}: {outcome.key}{_why(outcome)}",
                f"  log: {outcome.log_path}",
            ]
        elif outcome.status == "running":
            lines.append(f"running elsewhere: {outcome.key}")
    return lines


def _why(outcome: CellOutcome) -> str:
    said = (outcome.error or "").strip().splitlines()
    return f": {said[0]}" if said and outcome.status != "done" else ""
