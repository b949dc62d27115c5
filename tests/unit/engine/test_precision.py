"""Lower precision changes the arithmetic, never which weights an update starts from."""

from __future__ import annotations

import pytest
import torch

from clframe.data import loader
from clframe.engine.run import run_cell
from tests.conftest import MakeCell


def test_each_update_reads_the_weights_of_the_one_before(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for size in (1, 64):  # updates inside one autocast context, which would cache the weights
        monkeypatch.setattr(loader, "BLOCK", size)
        words = ("strategy=replay", "precision=bf16", "optim.lr=0.2")
        store = make_cell(*words, name=f"blocks of {size}")
        assert run_cell(store.folder) == 0
        state = torch.load(store.checkpoint_path, weights_only=True)["strategy"]
        weights.append(state["net.head.weight"])
    assert torch.equal(*weights)
