"""The MLflow stores of cells: one that was asked for is made before they start, ours meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clframe.config.schema import RunConfig, Track
from clframe.grid.view import Find

if TYPE_CHECKING:
    from clframe.tracking.mlflow import Target

Key = tuple[str | None, str]


@contextmanager
def opened(runs: Path, cells: Sequence[RunConfig]) -> Iterator[Stores]:
    """The stores of `cells`; a new one of ours is drafted from now on."""
    tracks = [c.track for c in cells if c.track.enabled]
    if not tracks:
        yield Stores(runs, tracks, lambda: None)
        return
    from clframe.tracking.mlflow import drafting

    with drafting(runs, tracks[0].uri) as draft:
        yield Stores(runs, tracks, draft.path)


class Stores:
    """Stores by URI and experiment, each made once, a new one of ours from a draft."""

    def __init__(
        self, runs: Path, tracks: Sequence[Track], draft: Callable[[], Path | None]
    ) -> None:
        self.runs, self.tracks, self._draft = runs, tracks, draft
        self._made: dict[Key, Target] = {}

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
