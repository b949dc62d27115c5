"""Proxy and pair contrast, and the two distillations: the examples 1-5, 7, 8 of PCR and HPCR."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from clframe.core.losses import (
    class_counts,
    proxy_contrast,
    proxy_distillation,
    relation_distillation,
)
from clframe.core.net import CosineLinear
from tests.unit.core.contrasts import AXES, NW, E, N, W, contrast, pairs, rows


@pytest.mark.parametrize(("tau", "expected"), [(1, 0.313262), (0.5, 0.126928)])
def test_example_1_two_samples(tau: float, expected: float) -> None:
    assert contrast(AXES, [0, 1], tau).mean().item() == pytest.approx(expected, abs=1e-6)


def test_example_1_at_the_published_temperature() -> None:
    """A loss this small keeps its digits in single precision."""
    assert contrast(AXES, [0, 1], 0.09).mean().item() == pytest.approx(1.49456e-5, rel=5e-3)


def test_example_1_in_double_precision() -> None:
    """Tells 1.49456e-5 from 1.49452e-5, which it would be without the guard."""
    loss = contrast(AXES, [0, 1], 0.09, dtype=torch.float64).mean().item()
    assert loss == pytest.approx(1.49456e-5, rel=1e-5)


def test_example_2_a_class_competes_once_for_each_of_its_samples() -> None:
    losses = contrast([E, E, E, N], [0, 0, 0, 1], 1.0)
    assert losses.tolist() == pytest.approx([1.214283] * 3 + [0.743668], abs=1e-5)
    assert losses.mean().item() == pytest.approx(1.096630, abs=1e-5)
    floor = contrast([E, E, E, N], [0, 0, 0, 1], 0.09).mean().item()
    assert floor == pytest.approx(0.823974, abs=1e-5)
    assert floor == pytest.approx(0.75 * math.log(3), abs=1e-4)


def test_example_3_an_absent_class_takes_no_part() -> None:
    head = CosineLinear(2, 3, scale=2.0, guard=1e-6)
    with torch.no_grad():
        head.weight.copy_(rows([E, N, W]))
    y = torch.tensor([0, 1])
    loss = proxy_contrast(head(rows(AXES)), y, class_counts(y, 3)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(0.126928, abs=1e-6)
    assert head.weight.grad is not None
    assert torch.equal(head.weight.grad[2], torch.zeros(2)) and head.weight.grad[:2].abs().min() > 0
    assert F.cross_entropy(head(rows(AXES)), y).item() == pytest.approx(0.525648, abs=1e-5)


def test_example_4_lengths_do_not_matter() -> None:
    plain = contrast([W, N], [0, 1], 0.5).mean().item()
    scaled = contrast([[1.8, 2.4], [0, 7.0]], [0, 1], 0.5, [[5.0, 0], [0, 0.2]]).mean().item()
    assert scaled == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "expected"), [("proxy", 0.999623), ("one", 1.531744), ("all", 1.461929)]
)
def test_example_5_pair_modes(mode: str, expected: float) -> None:
    features, y = rows([E, W, N, NW]), torch.tensor([0, 0, 1, 1])
    if mode == "proxy":
        loss = contrast([E, W, N, NW], y.tolist(), 0.5).mean().item()
    else:
        loss = pairs(mode, features, y, rows(AXES), 0.5)
    assert loss == pytest.approx(expected, abs=1e-5)


def test_example_7_proxy_distillation() -> None:
    now, old = rows([[1.0, 0, 2], [0, 1, 0]]), rows([[0.0, 0, 1], [1, 1, 0]])
    change = proxy_distillation(now, old, class_counts(torch.tensor([0, 2, 2]), 3))
    assert change.mean().item() == pytest.approx(0.666667, abs=1e-6)


@pytest.mark.parametrize(("tau", "expected", "least"), [(0.5, 1.003036, 0.555755)])
def test_example_8_relation_distillation(tau: float, expected: float, least: float) -> None:
    now, stored = rows([E, N, W]), rows([E, [0.8, 0.6], N])
    index = torch.arange(3)
    assert relation_distillation(now, index, now, stored, tau).mean().item() == pytest.approx(
        expected, abs=1e-5
    )
    same = stored.clone().requires_grad_()
    loss = relation_distillation(same, index, same, stored, tau).mean()
    loss.backward()
    assert loss.item() == pytest.approx(least, abs=1e-5)
    assert same.grad is not None and same.grad.abs().max() < 1e-6


def test_example_8_at_the_published_temperature() -> None:
    now, stored, index = rows([E, N, W]), rows([E, [0.8, 0.6], N]), torch.arange(3)
    found = [relation_distillation(z, index, z, stored, 0.09).mean().item() for z in (now, stored)]
    assert found == pytest.approx([4.930879, 0.110424], abs=2e-5)
