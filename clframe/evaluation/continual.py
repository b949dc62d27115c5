"""What evaluation at every iteration shows: worst cases, windowed changes and learning curves.

Definitions: De Lange et al. (ICLR 2023, arXiv 2205.13452); LCA from A-GEM (arXiv 1812.00420).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clframe.evaluation.timeline import Floats, Timeline, defined, mean, mean_present


def continual(line: Timeline, windows: Sequence[int], betas: Sequence[int]) -> dict[str, Any]:
    """All keys of continual evaluation but `gap`; Any because they nest lists and dicts."""
    first, matrix = int(line.starts[0]), line.matrix()
    acc = [mean(row[:n]) for row, n in zip(matrix, line.seen, strict=True)]
    forg = [mean(_drops(line, matrix, s)) for s in range(line.num_stages)]
    minima = _running_minima(line)
    min_acc, wc_acc = _min_acc(line, minima), _wc_acc(line, minima)
    at = line.stops - 1 - first
    min_by_boundary = [defined(v) for v in min_acc[at].tolist()]
    wf, wp = _windowed(line, windows, _largest_fall), _windowed(line, windows, _largest_rise)
    return {
        "acc_final": acc[-1],
        "acc_by_boundary": acc,
        "forg_final": forg[-1],
        "forg_by_boundary": forg,
        "min_acc_final": min_by_boundary[-1],
        "min_acc_by_boundary": min_by_boundary,
        "min_acc_per_task": [float(m[-1]) for m in minima],
        "min_acc_curve": [defined(v) for v in min_acc.tolist()],
        "wc_acc_final": float(wc_acc[-1]),
        "wc_acc_by_boundary": wc_acc[at].tolist(),
        "wc_acc_curve": wc_acc.tolist(),
        "aa_curve": anytime(line).tolist(),
        "wf": {w: mean(per_task) for w, per_task in wf.items()},
        "wf_per_task": wf,
        "wp": {w: mean(per_task) for w, per_task in wp.items()},
        "wp_per_task": wp,
        "lca_agem": {str(b): _lca_agem(line, b) for b in betas},
        "lca_first_evals": {str(b): _lca_first_evals(line, b) for b in betas},
    }


def anytime(line: Timeline) -> Floats:
    """Mean accuracy over the experiences seen so far, at every evaluated iteration >= 1."""
    first = int(line.starts[0])
    total = np.zeros(len(line.iterations) - first)
    for i, start in enumerate(line.starts[line.own] - first):
        total[start:] += line.accuracy[i, first + start :]
    return total / line.seen[line.at[first:]]


def _drops(line: Timeline, matrix: list[list[float | None]], s: int) -> list[float | None]:
    """How far each i learnt before stage s lies below R[own of i, i]; none of them is missing."""
    pairs = ((matrix[line.own[i]][i], matrix[s][i]) for i in range(line.past[s]))
    return [a - b for a, b in pairs if a is not None and b is not None]


def _running_minima(line: Timeline) -> list[Floats]:
    """m_i over the evaluations strictly after experience i, for each but one learnt last."""
    return [np.minimum.accumulate(line.after(i)) for i in range(line.past[-1])]


def _min_acc(line: Timeline, minima: list[Floats]) -> Floats:
    """min-ACC at every evaluated iteration >= 1; NaN while the first experience is learnt."""
    first = int(line.starts[0])
    total = np.zeros(len(line.iterations) - first)
    for i, lowest in enumerate(minima):
        total[line.stops[line.own[i]] - first :] += lowest
    begin = line.stops[0] - first
    total[:begin] = np.nan
    total[begin:] /= line.past[line.at[first + begin :]]
    return total


def _wc_acc(line: Timeline, minima: list[Floats]) -> Floats:
    """The learnt task's accuracy, if any, and the minima of the earlier ones, weighing alike."""
    first = int(line.starts[0])
    total = np.zeros(len(line.iterations) - first)
    for i, s in enumerate(line.own):
        total[line.starts[s] - first : line.stops[s] - first] = line.while_learnt(i)
    for i, lowest in enumerate(minima):
        total[line.stops[line.own[i]] - first :] += lowest
    return total / line.seen[line.at[first:]]


def _windowed(
    line: Timeline, windows: Sequence[int], measure: Callable[[Floats, int], float]
) -> dict[str, list[float]]:
    tasks = range(line.num_experiences)
    return {str(w): [measure(line.while_seen(i), w) for i in tasks] for w in windows}


def _largest_fall(series: Floats, window: int) -> float:
    """WF: how far a value lies below the highest of the `window` evaluations that it ends."""
    return float((_trailing_max(series, window) - series).max())


def _largest_rise(series: Floats, window: int) -> float:
    """WP: the mirror image, by the definition and not by the reference's shortcut."""
    return _largest_fall(-series, window)


def _trailing_max(series: Floats, window: int) -> Floats:
    """Maximum over positions max(0, q-window+1)..q, by doubling: O(N log window)."""
    highest, covered = series.copy(), 1
    window = min(window, len(series))
    while covered < window:
        step = min(covered, window - covered)
        highest[step:] = np.maximum(highest[step:], highest[:-step])
        covered += step
    return highest


def _lca_agem(line: Timeline, beta: int) -> float | None:
    """Mean accuracy on k, 0..beta updates after the previous boundary; every cell must exist."""
    ends = line.boundaries.tolist()
    cells = []
    for k, s in enumerate(line.own.tolist()):
        begin = ends[s - 1] if s else 0
        if begin + beta > ends[s]:
            return None
        wanted = np.arange(begin, begin + beta + 1)
        found = np.searchsorted(line.iterations, wanted)
        if (line.iterations[found] != wanted).any():
            return None
        cells.append(line.accuracy[k, found])
    return defined(float(np.mean(cells)))


def _lca_first_evals(line: Timeline, beta: int) -> float | None:
    """Mean over tasks of their first `beta` evaluations; tasks with fewer are skipped."""
    means = []
    for i in range(line.num_experiences):
        seen = line.while_seen(i)
        own = seen[: len(seen) - len(line.after(i))]
        means.append(float(own[:beta].mean()) if len(own) >= beta else None)
    return mean_present(means)
