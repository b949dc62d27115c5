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
Measurement = dict[str, Any]


class Options(NamedTuple):
    """What was asked for on the command line."""

    rounds: int = 3
    iters: int | None = None
    device: str = "cpu"
    words: tuple[str, ...] = ()
    avalanche: bool = True

    def work(self, **fields: Any) -> Work:
        """A case's own work, with what the command line puts in its place."""
        if self.iters:
            fields["iters"] = self.iters
        words = (*fields.pop("words", ()), *self.words)
        return Work(**fields, device=self.device, words=words)


def environment() -> dict[str, str]:
    """One thread each, this checkout's package, and progress bars as on a terminal."""
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "FORCE_COLOR": "1",
        "TERM": "xterm",
    }


def measure(script: str, work: Work) -> Measurement:
    """The measurement of one contender, which is printed as well."""
    load = os.getloadavg()[0]
    words = [sys.executable, str(HERE / script), json.dumps(work._asdict())]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} failed, exit code {done.returncode}:\n{done.stderr[-4000:]}")
    line = done.stdout.splitlines()[-1]
    facts: Measurement = json.loads(line)
    facts["load"] = round(load, 2)
    print(json.dumps(facts), flush=True)
    return facts


def rounds(options: Options, contenders: Mapping[str, Work]) -> list[dict[str, Measurement]]:
    """Each contender once a round, the order reversed from one round to the next."""
    found = []
    for r in range(options.rounds):
        order = list(contenders) if r % 2 == 0 else list(contenders)[::-1]
        found.append({script: measure(script, contenders[script]) for script in order})
    return found
