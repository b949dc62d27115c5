"""Lifelong-learning metrics: upkeep, transfer, and learning curves against an expert's.

Definitions: arXiv 2301.07799 and the l2metrics package (3.1.0) with its preprocessing off:
accuracies enter unscaled, unclamped and unsmoothed. Only sample efficiency smooths, as part of its
own definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from clframe.evaluation.timeline import (
    Floats,
    Rows,
    Timeline,
    TraceError,
    mean,
    mean_present,
    read,
)

Curve = Sequence[float] | Floats
_TOLERANCE = 1e-12


def lifelong(
    rows: Rows, *, expert: Sequence[Curve | Sequence[Curve] | None] | None = None
) -> dict[str, Any]:
    """What the stream does to each task learnt in it; `rp` and `se` only with `expert`.

    `expert` holds, for each experience, the accuracies of a model trained on it alone, one for each
    evaluation: one curve, several (one a run: the metric's mean over them), or None.
    Any because the keys nest dicts and lists.
    """
    line = read(rows)
    result = _maintenance(line) | _transfer(line)
    if expert is not None:
        runs = _expert_runs(expert, line.num_experiences)
        for key, metric in (("rp", _relative_performance), ("se", _sample_efficiency)):
            result[f"{key}_per_task"] = [
                _over_runs(metric, line.while_learnt(i), curves) for i, curves in enumerate(runs)
            ]
            result[key] = mean_present(result[f"{key}_per_task"])
    return result


def _maintenance(line: Timeline) -> dict[str, Any]:
    """PM: what later boundaries show of a task, relative to its own boundary."""
    matrix, num = line.accuracy[:, line.stops - 1].T, line.num_experiences
    per_task = [float(np.mean(matrix[i + 1 :, i] - matrix[i, i])) for i in range(num - 1)]
    return {"pm_per_task": per_task, "pm": mean_present(per_task)}


def _transfer(line: Timeline) -> dict[str, Any]:
    """What learning k does to each task j: forward (j to come) and backward (j learnt before)."""
    blocks = [line.initial(), *line.matrix()]
    num = line.num_experiences
    forward: dict[str, dict[str, float | None]] = {}
    backward: dict[str, dict[str, float | None]] = {}
    for k in range(num):
        for j in range(num):
            if j != k:
                kind = forward if j > k else backward
                kind[f"{k}->{j}"] = _compare(blocks[k][j], blocks[k + 1][j])
    result: dict[str, Any] = {"ft": forward, "bt": backward}
    for key, pairs in (("ft", forward), ("bt", backward)):
        for form in ("ratio", "contrast"):
            result[f"{key}_{form}_mean"] = mean_present(pair[form] for pair in pairs.values())
    return result


def _compare(before: float | None, after: float | None) -> dict[str, float | None]:
    if before is None or after is None:
        return {"ratio": None, "contrast": None}
    total = after + before
    return {
        "ratio": after / before if before else None,
        "contrast": (after - before) / total if total else None,
    }


def _relative_performance(agent: Floats, expert: Floats) -> float | None:
    """RP: the learning curve's sum over the expert's, as far as both go."""
    shared = min(len(agent), len(expert))
    best = float(expert[:shared].sum())
    return float(agent[:shared].sum()) / best if best else None


def _sample_efficiency(agent: Floats, expert: Floats) -> float | None:
    """SE: how high the curve saturates and how soon, both relative to the expert.

    None where a curve starts at its maximum; 0 where the agent barely learns or gets worse.
    """
    if len(expert) == 0:
        return None
    height, delay = _saturation(agent)
    expert_height, expert_delay = _saturation(expert)
    if delay == 0 or expert_delay == 0:
        return None
    positions = np.arange(len(agent)) - (len(agent) - 1) / 2
    worsens = float(positions @ agent) < -_TOLERANCE  # the sign of the fitted line's slope
    if worsens or height < 0.2 * expert_height - _TOLERANCE:
        return 0.0
    return (height / expert_height) * (expert_delay / delay)


def _saturation(curve: Floats) -> tuple[float, int]:
    """Maximum of the smoothed curve and the first position that reaches it, rounding aside."""
    smooth = _smooth(curve)
    height = float(smooth.max())
    return height, int(np.argmax(smooth >= height - _TOLERANCE))


def _smooth(curve: Floats) -> Floats:
    """Moving average over a fifth of the curve, at most 100; as it is below 3.

    As in l2metrics, ends are mirrored and position j averages the values up to j + width//2 - 1.
    """
    width = min(len(curve) // 5, 100)
    if width < 3:
        return curve
    mirrored = np.pad(curve, width - 1, mode="reflect")
    averages = np.convolve(mirrored, np.full(width, 1 / width), mode="valid")
    first = width // 2 - 1
    return averages[first : first + len(curve)]


def _over_runs(
    metric: Callable[[Floats, Floats], float | None], agent: Floats, curves: Iterable[Floats]
) -> float | None:
    return mean(metric(agent, curve) for curve in curves)


def _expert_runs(
    expert: Sequence[Curve | Sequence[Curve] | None], num_experiences: int
) -> list[list[Floats]]:
    """Each experience's expert curves, checked; an empty list where there is none."""
    if len(expert) != num_experiences:
        raise TraceError(
            f"expert has {len(expert)} entries for {num_experiences} experiences; "
            "give one for each, None where there is no expert"
        )
    return [[] if entry is None else _curves(entry, i) for i, entry in enumerate(expert)]


def _curves(entry: Curve | Sequence[Curve], i: int) -> list[Floats]:
    try:
        several = len(entry) > 0 and np.ndim(entry[0]) > 0
        curves = [np.asarray(c, dtype=np.float64) for c in (entry if several else [entry])]
    except (TypeError, ValueError) as error:
        raise TraceError(f"the expert of experience {i} must be a curve; {error}") from error
    for curve in curves:
        if curve.ndim != 1 or not ((curve >= 0) & (curve <= 1)).all():
            raise TraceError(
                f"the expert of experience {i} must be accuracies from 0 to 1, one for each of its "
                f"evaluations; got {np.array2string(curve, threshold=8)}"
            )
    return curves
