"""Whether what is about to run fits on the cores of this machine, beside what runs already."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clframe.config.schema import RunConfig


def crowding(cells: Sequence[RunConfig], workers: int) -> str | None:
    """A warning when `cells`, `workers` at a time, will have to wait for each other or for others.

    None when there is room, or nothing to run.
    """
    if not cells:
        return None
    cores, at_once = _cores(), min(workers, len(cells))
    largest = max(cells, key=lambda c: c.devices * c.threads)
    devices, threads = largest.devices, largest.threads
    wanted = at_once * devices * threads
    counts = {"--workers": at_once, "devices": devices, "threads": threads}
    more = [f"{key} (now {count})" for key, count in counts.items() if count > 1]
    if wanted > cores:
        return (
            f"{at_once} at a time x devices={devices} x threads={threads} want {wanted} cores, and "
            f"there are {cores}: they will slow each other down. Lower {' or '.join(more)}."
        )
    load = _load()
    if load > cores:
        what = f"Lower {' or '.join(more)}, or wait" if more else "Keep threads=1, or wait"
        return (
            f"the load average is {load:.1f} on {cores} cores: other programs keep them busy, so "
            f"this will be slow and its timings mean little. {what} until they have ended."
        )
    return None


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float:
    """How many processes wanted a core over the last minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0
