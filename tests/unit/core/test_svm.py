"""The support vector machine against problems solved by hand, and against LIBLINEAR."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from clframe.core.svm import linear_svm
from clframe.errors import TrainingError


@pytest.mark.parametrize(
    ("x", "positive", "wanted"),
    [
        ([[1.0], [-1.0]], [True, False], [0.8, 0.0]),
        ([[1.0], [-1.0], [-1.0]], [True, False, False], [0.844444, -0.044444]),
        ([[1.0, 0], [0, 1], [0, 1]], [True, False, False], [0.702703, -0.756757, -0.054054]),
    ],
)
def test_problems_solved_by_hand(
    x: list[list[float]], positive: list[bool], wanted: list[float]
) -> None:
    found = linear_svm(torch.tensor(x, dtype=torch.float64), torch.tensor(positive))
    assert found.tolist() == pytest.approx(wanted, abs=5e-7)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_agrees_with_liblinear(c: float) -> None:
    images, y = load_digits(return_X_y=True)
    x = images / np.linalg.norm(images, axis=1, keepdims=True)
    for label in (0, 8):  # an easy class and the hardest
        reference = LinearSVC(C=c, tol=1e-12, dual=False, max_iter=100_000).fit(x, y == label)
        wanted = [*reference.coef_[0], *reference.intercept_]
        found = linear_svm(torch.from_numpy(x), torch.from_numpy(y == label), c=c)
        assert found.tolist() == pytest.approx(wanted, abs=1e-6 * max(1, np.abs(wanted).max()))


def test_the_gradient_vanishes_where_steps_have_to_be_shortened() -> None:
    """On rows of very unequal length a whole Newton step overshoots."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=g, dtype=torch.float64)
    x = x * torch.logspace(-3, 3, 60, dtype=torch.float64)[:, None]
    positive = torch.rand(60, generator=g) < 0.3
    found = linear_svm(x, positive, c=10.0).requires_grad_()
    sign = torch.where(positive, 1.0, -1.0).double()
    slack = (1 - sign * (x @ found[:-1] + found[-1])).clamp(min=0)
    loss = found.square().sum() / 2 + 10 * slack.square().sum()
    (gradient,) = torch.autograd.grad(loss, found)
    assert gradient.abs().max() < 1e-9 * x.abs().max()


def test_says_so_when_a_feature_is_not_finite() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        linear_svm(torch.tensor([[float("nan")]], dtype=torch.float64), torch.tensor([True]))
