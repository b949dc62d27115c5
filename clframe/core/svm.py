"""A linear support vector machine, solved to rounding: what frozen features are classified by."""

from __future__ import annotations

import torch
from torch import Tensor

from clframe.errors import TrainingError

STEPS = 100  # Newton needs about ten; only data without a finite scale would need more


def linear_svm(x: Tensor, positive: Tensor, *, c: float = 1.0) -> Tensor:
    """Weights and, last, the bias of the hyperplane between two classes, [d + 1] float64.

    Minimises |w|^2/2 + c sum_i max(0, 1 - y_i w.(x_i, 1))^2, where x [n, d] are float64 rows and
    y_i is 1 where `positive` [n], else -1: the bias is regularised as one more weight, which is
    the primal problem of LIBLINEAR (Fan et al., 2008). Its minimum is unique; Newton's steps on
    the rows inside the margin (Keerthi and DeCoste, 2005) reach it in finitely many.
    Raises TrainingError where a feature is not finite, or no minimum is found.
    """
    if not bool(x.isfinite().all()):
        raise TrainingError("a feature to be classified is not finite; lower optim.lr.")
    rows = torch.cat([x, x.new_ones(len(x), 1)], 1)
    sign = torch.where(positive, 1.0, -1.0).to(x)
    weights = rows.new_zeros(rows.shape[1])
    margin = torch.zeros_like(sign)
    for _ in range(STEPS):
        inside = margin < 1
        some = rows[inside]
        curvature = 2 * c * (some.T @ some)
        curvature.diagonal().add_(1)
        wanted = 2 * c * (some.T @ sign[inside])
        aim = torch.cholesky_solve(wanted[:, None], torch.linalg.cholesky(curvature))[:, 0]
        before = weights
        weights, margin = _towards(aim, weights, rows, sign, margin, c)
        solved = torch.equal(weights, aim) and torch.equal(margin < 1, inside)
        if solved or torch.equal(weights, before):  # the true quadratic's minimum, or no way down
            return weights
    raise TrainingError(f"a support vector machine is not solved after {STEPS} steps.")


def _towards(
    aim: Tensor, weights: Tensor, rows: Tensor, sign: Tensor, margin: Tensor, c: float
) -> tuple[Tensor, Tensor]:
    """The first lower point among aim, half way to it, a quarter, ...; and its margins."""

    def loss(w: Tensor, m: Tensor) -> Tensor:
        return w.square().sum() / 2 + c * (1 - m).clamp(min=0).square().sum()

    now, there = loss(weights, margin), sign * (rows @ aim)
    share = 1.0
    while share > 1e-9:
        w, m = weights.lerp(aim, share), margin.lerp(there, share)
        if bool(loss(w, m) < now):
            return w, m
        share /= 2
    return weights, margin  # nothing is lower: rounding is all that is left
