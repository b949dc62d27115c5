"""The evaluator observes and changes nothing, whatever it looks at and however often."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from clframe.config.identity import from_yaml
from clframe.core import backbones
from clframe.engine.session import Run
from clframe.evaluation.evaluator import ContinualEvaluator
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell


def weights_of(store: RunStore) -> dict[str, Any]:
    run = Run(from_yaml(store.config_path), store, True)
    run.all()
    return copy.deepcopy(run.strategy.state_dict())


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if torch.is_tensor(value):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


def dropout_net(shape: tuple[int, ...], *, hidden: int) -> tuple[nn.Module, int]:
    dropped = nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), *dropped), hidden


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=replay",),
        ("strategy=derpp", "net.name=slim_resnet18", "net.args.width=4", "net.augment=true"),
        ("strategy=replay", "net.name=cnn", "net.args.width=4"),
        ("strategy=refresh+hpcr", "net.name=cnn", "net.args.width=4", "options.hpcr.repeats=2"),
    ],
    ids=["mlp with batch norm and dropout", "resnet with augmentation", "cnn", "wrapper"],
)
def test_weights_are_the_same_bits_however_the_run_is_observed(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    if words == ("strategy=replay",):
        monkeypatch.setitem(backbones.BACKBONES, "mlp", dropout_net)
    dense = weights_of(make_cell(*words, name="dense"))
    for i, change in enumerate((["eval.rho=0"], ["eval.rho=3", "eval.dense=4"])):
        assert_same(dense, weights_of(make_cell(*words, *change, name=f"sparse{i}")))
    every = 'eval.diagnostics=["feature_drift","gradient_norm","decomposition"]'
    assert_same(dense, weights_of(make_cell(*words, every, "eval.rho=2", name="diagnosed")))

    for hook in ("after_update", "boundary", "before_update", "gradients"):
        monkeypatch.setattr(ContinualEvaluator, hook, lambda *_a, **_k: None)
    assert_same(dense, weights_of(make_cell(*words, name="off")))


def test_the_bits_depend_on_the_seed(make_cell: MakeCell) -> None:
    a = weights_of(make_cell("strategy=replay", name="a"))
    b = weights_of(make_cell("strategy=replay", "seed=1", name="b"))
    key = "net.head.weight"
    assert not torch.equal(a[key], b[key])
