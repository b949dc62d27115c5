"""Shared loss terms against torch's own and against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.core.losses import cross_entropy, distillation, keep_classes, mean_squared_error


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def target() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def test_cross_entropy_is_torchs(logits: Tensor) -> None:
    y = torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(cross_entropy(logits, y), F.cross_entropy(logits, y))


def test_mean_squared_error_is_over_all_entries(logits: Tensor, target: Tensor) -> None:
    torch.testing.assert_close(mean_squared_error(logits, target), F.mse_loss(logits, target))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_soft_cross_entropy(
    logits: Tensor, target: Tensor, temperature: float
) -> None:
    soft = torch.softmax(target / temperature, 1)
    expected = F.cross_entropy(logits / temperature, soft) * temperature**2
    torch.testing.assert_close(distillation(logits, target, temperature), expected)
    by_divergence = (
        F.kl_div(F.log_softmax(logits / temperature, 1), soft, reduction="batchmean")
        - torch.sum(-soft * soft.log()) / -5
    )
    torch.testing.assert_close(expected, by_divergence * temperature**2)


def test_distillation_by_hand() -> None:
    """Teacher (2 ln 3, 0) at T=2 is (3/4, 1/4); a flat student has ln 1/2 twice: T^2 ln 2."""
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    flat = distillation(torch.zeros(1, 2), teacher, 2.0)
    assert flat.item() == pytest.approx(4 * math.log(2), rel=1e-6)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert distillation(teacher, teacher, 2.0).item() == pytest.approx(4 * entropy, rel=1e-6)


def test_distillation_has_no_gradient_at_the_teacher(target: Tensor) -> None:
    student = target.clone().requires_grad_()
    distillation(student, target).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6


def test_keep_classes_is_a_softmax_over_the_kept(logits: Tensor) -> None:
    keep = torch.tensor([True, False, True, False])
    masked = keep_classes(logits, keep)
    expected = F.cross_entropy(logits[:, [0, 2]], torch.tensor([0, 1, 0, 0, 1]))
    torch.testing.assert_close(cross_entropy(masked, torch.tensor([0, 2, 0, 0, 2])), expected)
    masked.sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, keep.float().expand(5, 4))


def test_keep_classes_distils_only_the_kept(logits: Tensor, target: Tensor) -> None:
    """Also when every class is closed, a term stays finite."""
    keep = torch.tensor([True, False, True, False])
    both = distillation(keep_classes(logits, keep), keep_classes(target, keep))
    torch.testing.assert_close(both, distillation(logits[:, [0, 2]], target[:, [0, 2]]))
    none = torch.zeros(4, dtype=torch.bool)
    assert distillation(keep_classes(logits, none), keep_classes(target, none)).isfinite()


def test_an_empty_batch_costs_nothing_and_has_a_gradient() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    y = torch.zeros(0, dtype=torch.long)
    for term in (
        cross_entropy(nothing, y),
        mean_squared_error(nothing, nothing.detach()),
        distillation(nothing, nothing.detach()),
    ):
        assert term.item() == 0
        term.backward()
