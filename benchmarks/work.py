"""What a contender is asked to do, and how it measures itself; shared by all of them."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, NamedTuple

EXPERIENCES = 5


class Work(NamedTuple):
    """Split Fashion-MNIST, five experiences; as many replayed samples as new ones."""

    net: str = "mlp"
    batch: int = 10
    rho: int = 1  # evaluate at updates 1, 1 + rho, ... and the last; 0: never
    subset: int = 1000  # evaluation samples per experience
    iters: int = 300  # updates per epoch
    epochs: int = 1
    capacity: int = 500
    rate: float = 0.05
    device: str = "cpu"
    seed: int = 0
    words: tuple[str, ...] = ()  # further `key=value` of clframe's configuration

    @property
    def updates(self) -> int:
        """Updates in one experience."""
        return self.iters * self.epochs

    def due(self, update: int) -> bool:
        """Whether there is an evaluation after this update of an experience, counted from 0."""
        return bool(self.rho) and (update % self.rho == 0 or update == self.updates - 1)

    @property
    def pairs(self) -> int:
        """How often one experience is evaluated in the measured part, experiences 2 to 5."""
        return sum(map(self.due, range(self.updates))) * sum(range(2, EXPERIENCES + 1))


def given() -> Work:
    """The work on this contender's command line."""
    fields = json.loads(sys.argv[1])
    return Work(**fields | {"words": tuple(fields["words"])})


def now(device: str) -> float:
    """CPU seconds of this process; on a GPU, wall seconds behind everything queued."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def peak_mb() -> float:
    """The largest resident size of this program; ru_maxrss would remember its parent's."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def report(contender: str, work: Work, marks: list[dict[str, float]], **more: Any) -> None:
    """Print the measurement: what experiences 2 to 5 took, by the marks of all five."""
    assert len(marks) == EXPERIENCES, f"{len(marks)} experiences were measured"
    measured = marks[1:]
    facts: dict[str, Any] = {"contender": contender, "net": work.net, "rho": work.rho}
    facts["updates"] = work.updates
    for key in measured[0]:
        facts[key] = round(sum(mark[key] for mark in measured), 4)
    facts["ms_per_update"] = round(facts["seconds"] / work.updates / len(measured) * 1e3, 4)
    if work.rho:
        samples = more.pop("samples", work.pairs * work.subset)
        facts["us_per_sample"] = round(facts["seconds"] / samples * 1e6, 3)
    print(json.dumps(facts | more), flush=True)
