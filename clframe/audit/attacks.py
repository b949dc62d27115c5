"""Attacks on softmax outputs, to tell that a model once trained on what it forgot.

An attack on the unlearned model has failed when its score is the one it has on a retrained model.
That counts only if it succeeds on the model just before the request: see informative().
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from clframe.audit.agreement import probabilities
from clframe.errors import ClframeError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PER_TASK = 500
SHADOW_PAIRS = 16
LEAST_SIGNAL = 0.05
UNINFORMATIVE = "attack uninformative"
_ROUNDING = 1e-9
_TIE = 1e-6  # a decision this close to the boundary is a coin flip, half a member
_LEAST_SPREAD = 1e-6  # of shadow confidences, so that constant ones have a density
_EPS = 1e-12  # of the logit scale, which so ends at +-27.6


class Outputs(NamedTuple):
    """Softmax outputs p [n, K] of one model, labels y [n] and tasks [n] (None: all of one)."""

    p: Any
    y: Any
    task: Any = None


class Sets(NamedTuple):
    """What an attack sees of one model: training and test data of held and of forgotten tasks."""

    retain_train: Outputs
    retain_test: Outputs
    forget_train: Outputs
    forget_test: Outputs


class Attack(NamedTuple):
    """An attack's score on one model, and its signal: how far it is from telling nothing.

    svc: mean of `member`, the share of forget-train called members, and `nonmember`, that of
    forget-test called non-members; 0.5 is no signal. entropy: the share `train` of forget-train
    called members; signal is its excess over that of forget-test. loss: max(AUC, 1 - AUC).
    lira: accuracy, 0.5 ideal; None with a note where the shadow pairs are too few.
    """

    score: float | None
    signal: float | None
    detail: dict[str, float]
    note: str = ""


def balanced(member: float, nonmember: float) -> Attack:
    """The attack of an SVC with these rates."""
    score = (member + nonmember) / 2
    return Attack(score, score - 0.5, {"member": member, "nonmember": nonmember})


def folded(area: float) -> Attack:
    """The attack of a threshold with this AUC; below 0.5 leaks too.

    Without a signal the score still exceeds 0.5 by 0.33/sqrt(n) on average, for n + n samples.
    """
    score = max(area, 1 - area)
    return Attack(score, score - 0.5, {"auc": area})


def svc_attack(given: Sets, *, seed: int, per_task: int = PER_TASK) -> dict[str, Attack]:
    """SVC attack (UnCLe): RBF, C=3, gamma auto, on retained train and test, by four features.

    The same number of both is drawn from each task, at most `per_task`: by seed and position only,
    so all models are attacked through the same samples.
    """
    sets = [_read(s) for s in given]
    rows = _draw(sets[0].task, sets[1].task, per_task, seed)
    found = {}
    for name, feature in FEATURES.items():
        member, other, train, test = (feature(s.p, s.y) for s in sets)
        x = np.concatenate([member[rows[0]], other[rows[1]]])
        is_member = np.arange(len(x)) < len(rows[0])
        model = SVC(C=3, kernel="rbf", gamma="auto").fit(x, is_member)
        found[name] = balanced(
            *(float(np.mean(model.predict(v) == m)) for v, m in ((train, 1), (test, 0)))
        )
    return found


def entropy_attack(given: Sets) -> Attack:
    """Entropy logistic (SSD): class-balanced, on retained train against test.

    A model whose entropies do not vary leaves no boundary: each sample then counts half.
    """
    sets = [_read(s) for s in given]
    member, other, train, test = (entropy(s.p) for s in sets)
    x = np.concatenate([member, other])[:, None]
    is_member = np.arange(len(x)) < len(member)
    model = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000)
    model.fit(x, is_member)

    def share(h: Floats) -> float:
        decision = model.decision_function(h[:, None])
        return float(np.mean(np.where(np.abs(decision) < _TIE, 0.5, decision > 0)))

    shares = {"train": share(train), "test": share(test)}
    return Attack(shares["train"], shares["train"] - shares["test"], shares)


def loss_attack(forget_train: Outputs, forget_test: Outputs) -> Attack:
    """Threshold on the loss -log p_y: does forget-train have the lower one?"""
    train, test = (_read(s) for s in (forget_train, forget_test))
    return folded(auc(confidence(train.p, train.y)[:, 0], confidence(test.p, test.y)[:, 0]))


def auc(members: Any, others: Any) -> float:
    """The chance that a member [n] exceeds one of the others [m]; ties count half."""
    ours, theirs = np.asarray(members, np.float64), np.asarray(others, np.float64)
    ranks = rankdata(np.concatenate([ours, theirs]))[: len(ours)]
    return float((ranks.mean() - (len(ours) + 1) / 2) / len(theirs))


def lira(
    unlearned: Any,
    retrained: Any,
    audited: tuple[Any, Any] | None = None,
    *,
    allow_fewer: bool = False,
) -> Attack:
    """Per-example likelihood-ratio attack (U-LiRA): was the example unlearned, or never learned?

    unlearned, retrained: [S, n] logit-scaled confidences of n forget examples under S pairs of
    shadow models. `audited` is (M_u, M_r), each [n] or [m, n], no shadow among them; without it,
    each pair is attacked through Gaussians fitted to the others. With Gaussians of under 16 the
    result is None with a note, or with `allow_fewer` a number with one.
    """
    ours, theirs = _shadows(unlearned), _shadows(retrained)
    if ours.shape != theirs.shape:
        raise ClframeError(f"shadow models come in pairs; got {ours.shape} and {theirs.shape}")
    num, apart = len(ours), 0 if audited else 1  # one is left out
    needs = f"needs {SHADOW_PAIRS + apart} shadow pairs"
    note = "" if num >= SHADOW_PAIRS + apart else needs
    if note and not allow_fewer:
        return Attack(None, None, {"num_pairs": num}, note)
    if num < 2 + apart:
        raise ClframeError(f"{num} shadow pairs; a Gaussian needs two models: give >= {2 + apart}")
    if audited:
        both = [_shadows(x) for x in audited]
        if any(x.shape[1] != ours.shape[1] for x in both):
            raise ClframeError(f"audited models need the shadows' {ours.shape[1]} examples")
        ratios = [_ratio(x, ours, theirs).ravel() for x in both]
    else:
        rest = [np.arange(num) != i for i in range(num)]
        ratios = [
            np.concatenate([_ratio(x[i], ours[r], theirs[r]) for i, r in enumerate(rest)])
            for x in (ours, theirs)
        ]
    accuracy = (float(np.mean(ratios[0] > 0)) + float(np.mean(ratios[1] <= 0))) / 2
    label = f"only {num} pairs, {note}: not for a headline claim" if note else ""
    detail = {"num_pairs": num, "tpr_at_1_percent_fpr": _tpr(*ratios)}
    return Attack(accuracy, accuracy - 0.5, detail, label)


def logit_confidence(p: Any, y: Any) -> Floats:
    """[n]: log p_y - log of the sum of the other probabilities, what lira() takes."""
    s = _read(Outputs(p, y))
    ours = confidence(s.p, s.y)[:, 0]
    rest = s.p.copy()
    rest[np.arange(len(rest)), s.y] = 0
    scaled: Floats = np.log(np.maximum(ours, _EPS)) - np.log(np.maximum(rest.sum(1), _EPS))
    return scaled


def informative(before: Attack) -> bool:
    """Does an attack on the model just before the request (M_pre) succeed at all?

    It does where its score exceeds 0.5 by 0.05 or more; the entropy attack, where its member share
    of forget-train exceeds that of forget-test by as much. A score below 0.5 is no success.
    """
    return before.signal is not None and before.signal >= LEAST_SIGNAL - _ROUNDING


def run_attacks(given: Sets, *, seed: int, per_task: int = PER_TASK) -> dict[str, Attack]:
    """All attacks on the outputs of one model: svc_<feature>, entropy and loss."""
    svc = {
        f"svc_{name}": attack
        for name, attack in svc_attack(given, seed=seed, per_task=per_task).items()
    }
    loss = loss_attack(given.forget_train, given.forget_test)
    return {**svc, "entropy": entropy_attack(given), "loss": loss}


def verdicts(
    models: Mapping[str, Mapping[str, Attack]], before: str = "before"
) -> dict[str, dict[str, float | str | None]]:
    """By attack, the score of each model, the `signal` of models[before] and a `note`.

    The note is "attack uninformative" where it fails on models[before], else empty.
    """
    if before not in models:
        raise ClframeError(
            f"no attack on {before!r}, the model just before the request, tells which attacks mean "
            f"anything; given: {', '.join(models)}"
        )
    return {
        name: {
            **{model: found[name].score for model, found in models.items()},
            "signal": control.signal,
            "note": "" if informative(control) else UNINFORMATIVE,
        }
        for name, control in models[before].items()
    }


def correctness(p: Floats, y: Ints) -> Floats:
    """[n, 1]: 1 where the most likely class is the label."""
    return (p.argmax(1) == y).astype(np.float64)[:, None]


def confidence(p: Floats, y: Ints) -> Floats:
    """[n, 1]: p_y."""
    return p[np.arange(len(p)), y][:, None]


def entropy(p: Floats) -> Floats:
    """[n], in nats."""
    h: Floats = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
    return h


FEATURES: dict[str, Callable[[Floats, Ints], Floats]] = {
    "correctness": correctness,
    "confidence": confidence,
    "entropy": lambda p, y: entropy(p)[:, None],
    "probabilities": lambda p, y: p,
}


def _read(given: Outputs) -> Outputs:
    """p in float64, y and task as integers; raises ClframeError where they do not fit."""
    p = probabilities(given.p)
    y = np.asarray(given.y)
    task = np.zeros(len(p), np.int64) if given.task is None else np.asarray(given.task)
    if y.shape != (len(p),) or task.shape != (len(p),):
        raise ClframeError(
            f"{len(p)} outputs have labels of shape {y.shape} and tasks of shape {task.shape}; "
            "expected one of each a sample, [n]"
        )
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= p.shape[1]:
        raise ClframeError(f"labels must be whole numbers from 0 to {p.shape[1] - 1}, as outputs")
    return Outputs(p, y, task)


def _draw(train: Ints, test: Ints, per_task: int, seed: int) -> tuple[Ints, Ints]:
    """Rows of as many train as test samples of each task, from a stream of each task's own."""
    rows: tuple[list[Ints], list[Ints]] = ([], [])
    for k in np.intersect1d(train, test).tolist():
        rng = np.random.default_rng([seed, k])
        both = [np.flatnonzero(task == k) for task in (train, test)]
        num = min(per_task, *map(len, both))
        for chosen, found in zip(rows, both, strict=True):
            chosen.append(np.sort(rng.permutation(found)[:num]))
    if not rows[0] or per_task < 1:
        raise ClframeError("no task has both retained train and test samples to learn an attack by")
    return np.concatenate(rows[0]), np.concatenate(rows[1])


def _shadows(given: Any) -> Floats:
    x: Floats = np.atleast_2d(np.asarray(given, dtype=np.float64))
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ClframeError(f"confidences of shape {x.shape}; expected finite [models, examples]")
    return x


def _ratio(x: Floats, unlearned: Floats, retrained: Floats) -> Floats:
    """log N(x; unlearned) - log N(x; retrained), each example by its own two Gaussians."""
    logs = []
    for shadows in (unlearned, retrained):
        spread = np.maximum(shadows.std(axis=0, ddof=1), _LEAST_SPREAD)
        logs.append(-(((x - shadows.mean(axis=0)) / spread) ** 2) / 2 - np.log(spread))
    ratio: Floats = logs[0] - logs[1]
    return ratio


def _tpr(positive: Floats, negative: Floats) -> float:
    """The share of positives above all but 1% of the negatives, rounded down."""
    limit = np.sort(negative)[::-1][len(negative) // 100]
    return float(np.mean(positive > limit))
