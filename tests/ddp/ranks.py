"""Run the cells whose folders are the arguments, and leave each rank's final state beside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from clframe.config.identity import from_yaml
from clframe.engine.session import Run
from clframe.tracking.store import RunStore

if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        rank = int(os.environ.get("LOCAL_RANK", 0))  # set by Lightning in the processes it starts
        store = RunStore(folder)
        run = Run(from_yaml(store.config_path), store, rank == 0)
        run.all()
        torch.save(run.strategy.state_dict(), folder / f"rank{rank}.pt")
