"""A clframe cell that notes what each experience took; alone here do we reach into clframe.

    python benchmarks/cell.py FOLDER MARKS DEVICE

It is started by the supervisor in `framework.py`, as `clframe cell FOLDER` would be.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from work import now, peak_mb

import clframe.engine.preload  # noqa: F401 - first, as in any cell: it sees to what is imported
from clframe.engine.session import Run
from clframe.evaluation.evaluator import ContinualEvaluator
from clframe.grid import cell

MARKED = Run, "_experience"  # from its first preparation to the checkpoint behind it
BOUNDARY = ContinualEvaluator, "boundary"  # everything on the full test sets, at its end


class Marks:
    """A file with a line of JSON for every experience that has ended."""

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device, self.boundary = path, device, 0.0
        self._wrap(*MARKED, self._experience)
        self._wrap(*BOUNDARY, self._boundary)

    def _wrap(self, owner: type, name: str, note: Callable[[float, float], None]) -> None:
        inner = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            begin, wall = now(self.device), time.time()
            out = inner(*given, **named)
            note(now(self.device) - begin, time.time() - wall)
            return out

        setattr(owner, name, timed)

    def _boundary(self, seconds: float, _: float) -> None:
        self.boundary += seconds

    def _experience(self, seconds: float, wall: float) -> None:
        self.put({"seconds": seconds, "wall": wall, "boundaries": self.boundary})
        self.boundary = 0.0

    def put(self, facts: dict[str, float]) -> None:
        with open(self.path, "a") as out:
            out.write(json.dumps(facts) + "\n")


def main() -> int:
    folder, path, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    marks = Marks(path, device)
    code = cell.run(folder)
    marks.put({"peak_mb": peak_mb()})
    return code


if __name__ == "__main__":
    sys.exit(main())
