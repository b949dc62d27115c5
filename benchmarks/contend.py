"""Runs contenders in processes of their own, in turn, and pairs what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from work import Work

HERE = Path(__file__).resolve().parent
PYTHON = os.path.abspath(sys.executable)  # found through a relative $PATH it is relative
Measurement = dict[str, Any]


class Finding(NamedTuple):
    """One figure, a value per round."""

    what: str
    values: list[float]
    goal: float | None = None
    at_least: bool = False


class Options(NamedTuple):
    """What was asked for on the command line."""

    rounds: int = 3
    iters: int | None = None
    net: str | None = None
    device: str = "cpu"
    words: tuple[str, ...] = ()
    avalanche: bool = True

    def work(self, **fields: Any) -> Work:
        """A case's own work, with what the command line puts in its place."""
        told = {"iters": self.iters, "net": self.net}
        fields |= {key: value for key, value in told.items() if value}
        words = (*fields.pop("words", ()), *self.words)
        return Work(**fields, device=self.device, words=words)


def environment() -> dict[str, str]:
    """One thread each, this checkout's package, and progress bars as on a terminal."""
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CLFRAME_PATH": str(HERE),
        "FORCE_COLOR": "1",
        "TERM": "xterm",
    }


def measure(script: str, work: Work, *words: str) -> Measurement:
    """The measurement of one contender, which is printed as well."""
    load = os.getloadavg()[0]
    command = [PYTHON, str(HERE / script), json.dumps(work._asdict()), *words]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True
        )
    if done.returncode:
        sys.exit(f"{script} failed, exit code {done.returncode}:\n{done.stderr[-4000:]}")
    facts: Measurement = json.loads(done.stdout.splitlines()[-1])
    facts["load"] = round(load, 2)
    print(json.dumps(facts), flush=True)
    return facts


def rounds(
    options: Options, contenders: Mapping[str, tuple[str, Work]]
) -> list[dict[str, Measurement]]:
    """Each contender, a script and its work, once a round; every other round in reverse."""
    found = []
    for r in range(options.rounds):
        order = list(contenders) if r % 2 == 0 else list(contenders)[::-1]
        found.append({name: measure(*contenders[name]) for name in order})
    return found
