"""Synchronised batch norm: alone it is torch's, else it is that of all rows together."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from clframe.core import dist
from clframe.core.norms import SyncBatchNorm, synchronise
from clframe.errors import ConfigError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), BatchNormAct2d(3), nn.Flatten(1)]
    net = nn.Sequential(*layers, nn.BatchNorm1d(3, momentum=None)).double()
    for p in net.parameters():
        nn.init.normal_(p, 1.0)
    return net


def test_two_ranks_with_the_same_rows_are_one_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, shared = network(), network()
    synchronise(shared)
    assert [type(m).__name__ for m in shared if isinstance(m, SyncBatchNorm)] == [
        "SyncBatchNorm",
        "SyncBatchNormAct",
        "SyncBatchNorm",
    ]
    x = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    for rows in (x, x + 1, x * 2):
        expected = whole(torch.cat([rows, rows]))
        with monkeypatch.context() as two:
            two.setattr(dist, "world", lambda: 2)
            two.setattr(dist, "total", lambda values: 2 * values)
            out = shared(rows)
            out.square().sum().backward()
        expected.square().sum().backward()
        assert torch.allclose(out, expected[:5], rtol=1e-12, atol=1e-12)
    state, want = shared.state_dict(), whole.state_dict()
    assert state.keys() == want.keys()
    assert all(torch.allclose(state[k], want[k], rtol=1e-12, atol=1e-12) for k in want)
    for mine, all_of_it in zip(shared.parameters(), whole.parameters(), strict=True):
        assert mine.grad is not None and all_of_it.grad is not None
        assert torch.allclose(2 * mine.grad, all_of_it.grad, rtol=1e-9, atol=1e-9)
    assert torch.allclose(shared.eval()(x), whole.eval()(x), rtol=1e-12)


def test_alone_and_in_evaluation_it_is_torchs() -> None:
    plain, shared = network(), network()
    synchronise(shared)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    for mode in (True, False):
        plain.train(mode)
        shared.train(mode)
        assert torch.allclose(plain(x), shared(x), rtol=1e-13)


def test_half_precision_sums_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = nn.BatchNorm1d(2)
    synchronise(norm)
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "total", lambda values: 2 * values)
    x = torch.rand(4099, 2).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    assert norm.running_mean is not None
    exact = 0.1 * x.double().mean(0)
    assert torch.allclose(norm.running_mean.double(), exact, rtol=1e-6, atol=0)


def test_a_kind_that_is_not_known_is_refused() -> None:
    class Odd(nn.BatchNorm1d):
        pass

    with pytest.raises(ConfigError, match=r"net.batch_norm: Odd .*net.batch_norm=local"):
        synchronise(nn.Sequential(Odd(2)))
