"""Which of the processes that train together this one is, judged by its environment alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

LOST = 75  # exit code of a rank whose peers have gone: another one's failure, in most cases
NODES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


class Seat(NamedTuple):
    """The place that an outside launcher gave this process: `rank` of `world`, and who gave it."""

    launcher: str
    rank: int
    world: int
    local: int


def seat(environment: Mapping[str, str] | None = None) -> Seat | None:
    """Where torchrun, or srun with several tasks, has put this process; None: nobody has."""
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in env:
        keys, launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "torchrun"
    elif "SLURM_STEP_ID" in env:  # a task of srun; the batch script itself is none
        keys, launcher = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"), "srun"
    else:
        return None
    try:
        found = Seat(launcher, *(int(env[key]) for key in keys))
    except (KeyError, ValueError):
        return None
    return found if found.world > 1 else None


def rank() -> int:
    """The number of this process among all ranks of its cell, which it was started with."""
    return int(os.environ.get("RANK", 0))
