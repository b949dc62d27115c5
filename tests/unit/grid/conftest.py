"""Cells that are tiny programs, started the way real ones are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clframe.config.load import load_run
from clframe.grid.launch import Handle, Launch, Spawned
from clframe.grid.runner import write_config

PROGRAM = str(Path(__file__).with_name("fake_cell.py"))
Faked = Callable[..., Launch]


@pytest.fixture
def faked() -> Faked:
    """`faked(name=mode, ...)`: cells whose folder's name has `name` in it behave like `mode`."""

    def make(**modes: str) -> Launch:
        program, python = PROGRAM, sys.executable  # no names of this module: Ray sends it elsewhere

        def launch(folder: Path, env: dict[str, str], log: Path) -> Handle:
            mode = next((m for name, m in modes.items() if name in folder.name), "done")
            with open(log, "ab") as out:
                process = subprocess.Popen(
                    [python, "-S", "-E", program, str(folder), mode],
                    env=env,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            return Spawned(process, os.open(os.devnull, os.O_RDONLY))

        return launch

    return make


@pytest.fixture
def cell(tmp_path: Path) -> Callable[..., Path]:
    """`cell(word, ...)`: the folder of a cell that is ready to start."""

    def make(*words: str, name: str = "one") -> Path:
        folder = tmp_path / "runs" / "g" / name
        base = ["strategy=fine_tune", "scenario=split_digits", "track.enabled=false"]
        write_config(load_run([*base, *words]), folder)
        return folder

    return make
