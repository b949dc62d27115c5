"""Two processes train as one: equal bits on both ranks, and the numbers of a single process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clframe.engine.run import run_cell
from clframe.registry import plugins
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell, prepare_cell

STRATEGIES = sorted(name for name, p in plugins("strategy").items() if not p.is_wrapper)
NORMS = "resnet"  # batch norm: the ranks agree, but not with a single process
FROZEN = "frozen"  # batch norm that stands still: both agree, though features are kept


def words_of(case: str) -> list[str]:
    if case == NORMS:
        return ["strategy=replay", "net.name=slim_resnet18", "net.args.width=4", "net.augment=true"]
    if case == FROZEN:
        return [*words_of(NORMS), "precision=64", "net.freeze=true", "eval.budget=31"]
    return [f"strategy={case}", "precision=64", "optim.momentum=0.9"]


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunStore]:
    """Every strategy trained by one pair of processes."""
    home = tmp_path_factory.mktemp("two")
    stores = {
        case: prepare_cell(home / case, "accelerator=cpu", "devices=2", *words_of(case))
        for case in (*STRATEGIES, NORMS, FROZEN)
    }
    script = Path(__file__).with_name("ranks.py")
    command = [sys.executable, str(script), *(str(s.folder) for s in stores.values())]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env["PYTHONPATH"] = str(script.parents[2])
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return stores


def states(store: RunStore) -> list[dict[str, Any]]:
    return [torch.load(store.folder / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


@pytest.mark.parametrize("case", [*STRATEGIES, NORMS, FROZEN])
def test_ranks_end_with_equal_bits(on_two_ranks: dict[str, RunStore], case: str) -> None:
    left, right = states(on_two_ranks[case])
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
        assert same, key


@pytest.mark.parametrize("strategy", [*STRATEGIES, FROZEN])
def test_two_ranks_equal_one_process(
    on_two_ranks: dict[str, RunStore], make_cell: MakeCell, strategy: str
) -> None:
    one, two = make_cell("accelerator=cpu", *words_of(strategy)), on_two_ranks[strategy]
    assert run_cell(one.folder) == 0
    left, right = torch.load(one.checkpoint_path, weights_only=True), states(two)[0]
    for key, value in left["strategy"].items():
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(value, right[key], rtol=1e-6, atol=1e-9, msg=key)
        elif torch.is_tensor(value):
            assert torch.equal(value, right[key]), key
    assert one.read_trace().equals(two.read_trace())
    assert one.read_boundary().equals(two.read_boundary())
    assert one.read_record().counting["fallback"] is two.read_record().counting["fallback"] is None
