"""What is left of forgotten knowledge: how fast it is relearned, and what a probe still reads.

Accuracies are fractions. Curves are measured elsewhere, with the same batches, learning rate and
budget for every model, a fresh optimiser and no protection of other tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clframe.errors import ClframeError

Curve = Mapping[int, float]

MARGINS = (0.05, 0.10)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RelearnTime:
    """Steps until the target was reached; if `censored`, it was not within these steps."""

    steps: int
    censored: bool = False

    def __str__(self) -> str:
        return f"> {self.steps}" if self.censored else str(self.steps)


@dataclass(frozen=True)
class Anamnesis:
    """AIN = r(M_u)/r(M_r): 1 ideal, below 1 remembers, far above 1 is damaged.

    bound "" is a value; ">" and "<" only a limit, since one of the times is censored; value None
    is undefined, and `reason` says why.
    """

    value: float | None
    bound: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        return f"{self.bound} {self.value:.4g}".strip()


def target(before: float, margin: float) -> float:
    """(1 - m) a_{u_f-1,f}: what a relearned task must reach."""
    if not 0 <= margin < 1:
        raise ClframeError(f"margin is {margin!r}; expected a fraction such as 0.05")
    if not 0 < before <= 1:
        raise ClframeError(f"accuracy before the request is {before!r}; expected one in (0, 1]")
    return (1 - margin) * before


def relearn_time(
    accuracy: Sequence[float], goal: float, steps: Sequence[int] | None = None
) -> RelearnTime:
    """The first step at which the recovery curve reaches the goal.

    steps: when accuracy was measured, by default after each step 1, 2, ...; the last is the budget
    B. Step 0 is the model before relearning.
    """
    at = range(1, len(accuracy) + 1) if steps is None else steps
    if not len(accuracy) or len(at) != len(accuracy):
        raise ClframeError(f"{len(accuracy)} accuracies at {len(at)} steps; give one at each")
    if at[0] < 0 or any(b <= a for a, b in itertools.pairwise(at)):
        raise ClframeError(f"steps must be >= 0 and rise; got {list(at)}")
    if not all(0 <= a <= 1 for a in accuracy):
        raise ClframeError("a recovery curve holds numbers from 0 to 1 (100% is 1.0)")
    for step, a in zip(at, accuracy, strict=True):
        if a >= goal - _ROUNDING:
            return RelearnTime(step)
    return RelearnTime(at[-1], censored=True)


def anamnesis(unlearned: RelearnTime, retrained: RelearnTime) -> Anamnesis:
    """AIN, with what censoring leaves of it."""
    if unlearned.censored and retrained.censored:
        return Anamnesis(None, reason="neither model reached the target")
    if retrained.steps == 0:
        return Anamnesis(None, reason="the retrained model is at the target without relearning")
    value = unlearned.steps / retrained.steps
    bound = ">" if unlearned.censored else "<" if retrained.censored and value else ""
    return Anamnesis(value, bound)


def anamnesis_by_margin(
    before: float,
    unlearned: Sequence[float],
    retrained: Sequence[float],
    steps: Sequence[int] | None = None,
    margins: Sequence[float] = MARGINS,
) -> dict[float, tuple[RelearnTime, RelearnTime, Anamnesis]]:
    """r(M_u), r(M_r) and AIN for each margin, from two recovery curves over the same steps."""
    found = {}
    for m in margins:
        u, r = (relearn_time(curve, target(before, m), steps) for curve in (unlearned, retrained))
        found[m] = u, r, anamnesis(u, r)
    return found


def linear_probe(train_x: Any, train_y: Any, test_x: Any, test_y: Any, c: float = 1.0) -> float:
    """Test accuracy of a logistic regression on frozen features x [n, d] of the forgotten classes.

    Features are standardised by the training ones; c is the inverse strength of the L2 penalty.
    """
    data = [np.asarray(v) for v in (train_x, train_y, test_x, test_y)]
    for x, y in (data[:2], data[2:]):
        if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
            raise ClframeError(
                f"features have shape {x.shape}, labels {y.shape}; expected [n, d] and [n]"
            )
        if not np.isfinite(x.astype(np.float64)).all():
            raise ClframeError("a feature is not finite; lower optim.lr")
    if len(np.unique(data[1])) < 2:
        raise ClframeError(
            "a probe needs two classes or more; with one, probe it against held ones"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000))
    probe.fit(data[0].astype(np.float64), data[1])
    return float(probe.score(data[2].astype(np.float64), data[3]))
