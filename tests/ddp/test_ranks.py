"""Two processes train as one: equal bits on both ranks, and the numbers of a single process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from clframe.engine import resume
from clframe.engine.run import run_cell
from clframe.registry import plugins
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell


def run_on_two(store: RunStore) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "clframe", "cell", str(store.folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("strategy", sorted(plugins("strategy")))
def test_two_ranks_equal_one_process(make_cell: MakeCell, strategy: str) -> None:
    words = (f"strategy={strategy}", "accelerator=cpu", "precision=64")
    one = make_cell(*words, name="one")
    assert run_cell(one.folder) == 0
    two = make_cell(*words, "devices=2", name="two")
    run_on_two(two)
    left, right = (resume.load(s.checkpoint_path)["strategy"] for s in (one, two))
    assert left.keys() == right.keys()
    for key, value in left.items():
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(value, right[key], rtol=1e-6, atol=1e-9, msg=key)
        elif torch.is_tensor(value):
            assert torch.equal(value, right[key]), key
    assert one.read_trace().equals(two.read_trace())
    assert one.read_boundary().equals(two.read_boundary())
