"""How far a model that unlearned is from one that was retrained without what it forgot.

p and q are softmax outputs [n, K], one row a sample; give them in float64, since a probability
that rounds to 0 makes a Kullback-Leibler divergence infinite. `active` [K] masks the classes that
exist in both models: the others are dropped and rows renormalised. Divergences are means over
samples, in nats unless `bits`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clframe.errors import ClframeError
from clframe.evaluation.timeline import mean
from clframe.evaluation.unlearning import Row

Floats = npt.NDArray[np.float64]
Active = Sequence[bool] | npt.NDArray[np.bool_] | None

SMOOTHING = 1e-12  # of the legacy form
_SUM = 1e-2  # half-precision softmax may miss 1 by this much; it is renormalised


class Reading(NamedTuple):
    """A distance from the retrained model, that between two retrained models, and their ratio.

    The ratio is None where the floor is 0 or, for fewer than two models, None.
    """

    value: float | None
    floor: float | None
    ratio: float | None


def kl(p: Any, q: Any, active: Active = None, bits: bool = False) -> float:
    """KL(p || q); infinite where q excludes what p allows. The report's is KL(p_r || p_u)."""
    return _average(_kl(*_pair(p, q, active)), bits)


def js(p: Any, q: Any, active: Active = None, bits: bool = False) -> float:
    """Jensen-Shannon: KL(p || m)/2 + KL(q || m)/2 with m = (p + q)/2, at most ln 2 or 1 bit."""
    return _average(_js(*_pair(p, q, active)), bits)


def total_variation(p: Any, q: Any, active: Active = None) -> float:
    """sum |p - q| / 2, from 0 to 1."""
    a, b = _pair(p, q, active)
    return _average(np.abs(a - b).sum(1) / 2)


def activation_distance(p: Any, q: Any, active: Active = None) -> float:
    """The Euclidean distance of the outputs, from 0 to sqrt 2."""
    a, b = _pair(p, q, active)
    return _average(np.linalg.norm(a - b, axis=1))


def disagreement(p: Any, q: Any, active: Active = None) -> float:
    """The share of samples whose most likely class differs (of equals, the first)."""
    a, b = _pair(p, q, active)
    return float(np.mean(a.argmax(1) != b.argmax(1)))


def uniformity(p: Any, active: Active = None, legacy: bool = False) -> float:
    """UNI = 1 - JS(p, uniform over the active classes) in bits; for `legacy` see zrf()."""
    a = probabilities(p, active)
    return zrf(a, np.full_like(a, 1 / a.shape[1]), None, legacy)


def zrf(p: Any, untrained: Any, active: Active = None, legacy: bool = False) -> float:
    """ZRF = 1 - JS(p, output of the untrained model), in bits: 1 where they are the same.

    `legacy` is the form of published code, only to compare with its numbers: in nats, arguments
    swapped to KL(m || p)/2 + KL(m || q)/2, and smoothed by 1e-12. It is unbounded below.
    """
    a, b = _pair(p, untrained, active)
    m = (a + b) / 2
    if not legacy:
        return 1 - _average(_js(a, b), bits=True)
    return 1 - _average((_kl(m, a + SMOOTHING) + _kl(m, b + SMOOTHING)) / 2)


def euclidean(a: Any, b: Any) -> float:
    """Mean norm of the difference of features [n, d]; not invariant to rotation."""
    x, y = _features(a, b)
    return _average(np.linalg.norm(x - y, axis=1))


def manhattan(a: Any, b: Any) -> float:
    """Mean sum of absolute differences of features [n, d]; not invariant to rotation."""
    x, y = _features(a, b)
    return _average(np.abs(x - y).sum(1))


def cosine(a: Any, b: Any) -> float:
    """Mean 1 - cosine of features [n, d]; a zero vector is at 1 from others and at 0 from zero."""
    x, y = _features(a, b)
    n, m = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    apart = x / np.where(n > 0, n, 1)[:, None] - y / np.where(m > 0, m, 1)[:, None]
    # |u - v|^2 / 2 is 1 - u.v of unit vectors, and exactly 0 of equal ones
    return _average(np.where((n > 0) != (m > 0), 1.0, (apart**2).sum(1) / 2))


@dataclass(frozen=True)
class Moments:
    """Centred second moments of two models' features [n, d] and [n, e]; `+` joins batches.

    Whole-set sums, so that CKA depends neither on batches nor on how ranks share the samples.
    """

    num: int
    means: tuple[Floats, Floats]
    xx: Floats
    yy: Floats
    xy: Floats

    @classmethod
    def of(cls, a: Any, b: Any) -> Moments:
        """Of one batch; a and b may differ in width, not in length."""
        x, y = _features(a, b, same_width=False)
        means = x.mean(0), y.mean(0)
        x, y = x - means[0], y - means[1]
        return cls(len(x), means, x.T @ x, y.T @ y, x.T @ y)

    def __add__(self, other: Moments) -> Moments:
        """Chan et al. (1979): what the means differ by enters as one more, weighted, sample."""
        num = self.num + other.num
        weight = self.num * other.num / num
        dx, dy = (theirs - ours for ours, theirs in zip(self.means, other.means, strict=True))
        share = other.num / num
        return Moments(
            num,
            (self.means[0] + share * dx, self.means[1] + share * dy),
            self.xx + other.xx + weight * np.outer(dx, dx),
            self.yy + other.yy + weight * np.outer(dy, dy),
            self.xy + other.xy + weight * np.outer(dx, dy),
        )

    def cka(self) -> float | None:
        """|X'Y|^2 / (|X'X| |Y'Y|) of centred features; None where either never varies."""
        for spread, centre in zip((self.xx, self.yy), self.means, strict=True):
            if np.trace(spread) <= 1e-24 * self.num * float(centre @ centre):
                return None
        norms = float(np.linalg.norm(self.xx)) * float(np.linalg.norm(self.yy))
        return float(np.linalg.norm(self.xy)) ** 2 / norms


def cka_distance(a: Any, b: Any) -> float | None:
    """1 - linear CKA of features [n, d], [n, e]; invariant to rotation and scale."""
    found = Moments.of(a, b).cka()
    return None if found is None else max(0.0, 1 - found)


def accuracy_gain(ours: Row, original: Row, tasks: Sequence[int]) -> float | None:
    """AG: mean of acc(M_u, k) - acc(M_o, k) over `tasks`, as a rule those held."""
    return mean(_minus(ours[k], original[k]) for k in tasks)


Distance = Callable[[Any, Any], float | None]
FEATURES: dict[str, Distance] = {
    "euclidean": euclidean,
    "manhattan": manhattan,
    "cosine": cosine,
    "cka": cka_distance,
}


def divergences(active: Active = None) -> dict[str, Distance]:
    """Those of softmax outputs, as functions of (p_u, p_r): "kl" is KL(p_r || p_u)."""
    return {
        "kl": lambda u, r: kl(r, u, active),
        "js": lambda u, r: js(u, r, active),
        "total_variation": lambda u, r: total_variation(u, r, active),
        "activation_distance": lambda u, r: activation_distance(u, r, active),
        "disagreement": lambda u, r: disagreement(u, r, active),
    }


def compare(
    p_u: Any, p_r: Any, features: Any = None, untrained: Any = None, active: Active = None
) -> dict[str, float | None]:
    """All of it, on the same samples in the same order; `features` is a pair (u, r), if given.

    js is in nats; "uniformity", "uniformity_retrained" and M_u's "zrf" are in bits.
    """
    found = {name: f(p_u, p_r) for name, f in divergences(active).items()}
    found["uniformity"] = uniformity(p_u, active)
    found["uniformity_retrained"] = uniformity(p_r, active)
    if untrained is not None:
        found["zrf"] = zrf(p_u, untrained, active)
    if features is not None:
        found.update({name: f(*features) for name, f in FEATURES.items()})
    return found


def noise_floor(models: Sequence[Any], divergence: Distance) -> float | None:
    """Its mean over ordered pairs of retrained models; None for fewer than two."""
    return mean(divergence(a, b) for a, b in itertools.permutations(models, 2))


def against(value: float | None, floor: float | None) -> Reading:
    """A value read against the noise floor."""
    if value is None or floor is None or not 0 < floor < math.inf:
        return Reading(value, floor, None)
    return Reading(value, floor, value / floor)


def probabilities(p: Any, active: Active = None) -> Floats:
    """p [n, K] in float64, masked to the active classes, its rows renormalised to sum to 1.

    Raises ClframeError where rows are no distributions, or nothing is left of one.
    """
    a: Floats = np.asarray(p, dtype=np.float64)
    if a.ndim != 2 or not a.size:
        raise ClframeError(f"softmax outputs have shape {a.shape}; expected [n, K], not empty")
    if not (a >= 0).all() or np.abs(a.sum(1) - 1).max() > _SUM:
        raise ClframeError("softmax outputs must be >= 0 and sum to 1 in each row; give no logits")
    if active is not None:
        mask = np.asarray(active, dtype=bool)
        if mask.shape != a.shape[1:]:
            raise ClframeError(f"active has shape {mask.shape}; expected one flag a class, [K]")
        a = a[:, mask]
    total = a.sum(1, keepdims=True)
    if not (total > 0).all():
        raise ClframeError("a sample has no probability on any active class; mask the logits first")
    return a / total


def _pair(p: Any, q: Any, active: Active) -> tuple[Floats, Floats]:
    a, b = probabilities(p, active), probabilities(q, active)
    if a.shape != b.shape:
        raise ClframeError(f"outputs have shapes {a.shape} and {b.shape}; give the same samples")
    return a, b


def _features(a: Any, b: Any, same_width: bool = True) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    fit = x.shape == y.shape if same_width else len(x) == len(y)
    if x.ndim != 2 or y.ndim != 2 or not fit or not x.size or not y.size:
        raise ClframeError(f"features have shapes {x.shape} and {y.shape}; expected [n, d] of both")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ClframeError("a feature is not finite; lower optim.lr")
    return x, y


def _kl(p: Floats, q: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / q), 0.0)
    summed: Floats = terms.sum(1)
    return summed


def _js(p: Floats, q: Floats) -> Floats:
    m = (p + q) / 2
    return (_kl(p, m) + _kl(q, m)) / 2


def _average(values: Floats, bits: bool = False) -> float:
    return float(values.mean()) / (math.log(2) if bits else 1)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
