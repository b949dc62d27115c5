"""The MLflow stores of cells: one that was asked for is made before they start, ours meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from clframe.config.schema import RunConfig, Track
from clframe.grid.view import Find

if TYPE_CHECKING:
    from clframe.tracking.mlflow import Target

Key = tuple[str | None, str]


class Stores:
    """Stores by URI and experiment, each made once; a new one of ours is drafted from the start."""

    def __init__(self, runs: Path, cells: Sequence[RunConfig]) -> None:
        self.runs = runs
        self.tracks = [c.track for c in cells if c.track.enabled]
        self._made: dict[Key, Target] = {}
        self._draft: Callable[[], Path | None] = lambda: None
        self._exit = ExitStack()

    def __enter__(self) -> Stores:
        if self.tracks:
            from clframe.tracking.mlflow import drafting

            self._draft = self._exit.enter_context(drafting(self.runs, self.tracks[0].uri)).path
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._exit.__exit__(kind, error, at)

    def insist(self) -> None:
        """Make the stores that were asked for by name. Raises ConfigError where one cannot be."""
        for uri, experiment in {(t.uri, t.experiment): None for t in self.tracks if t.uri}:
            self._find((uri, experiment))

    def find(self, track: Track) -> Find | None:
        """How to come by the store of a cell; None for one that is shown nowhere."""
        return (
            functools.partial(self._find, (track.uri, track.experiment)) if track.enabled else None
        )

    def _find(self, key: Key) -> Target:
        if key not in self._made:
            from clframe.tracking.mlflow import prepare

            self._made[key] = prepare(self.runs, *key, self._draft)
        return self._made[key]
