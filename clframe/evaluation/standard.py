"""The metrics most papers report, from the accuracies at the boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clframe.evaluation.continual import anytime
from clframe.evaluation.timeline import Timeline, defined, mean

Cells = Sequence[float | None]
Matrix = Sequence[Cells]


def standard(line: Timeline, requests: Iterable[int]) -> dict[str, Any]:
    """The keys that need no reference run; Any because some are lists."""
    matrix, initial, own = line.matrix(), line.initial(), at_own(line)
    stage = line.stages[line.at[line.starts[0] :]]
    learning = ~np.isin(stage, [*requests])
    past = [range(n) for n in line.past]
    old = past[-1]  # of these, what came after their learning is known
    change = mean(
        _minus(row[i], own[i]) for row, few in zip(matrix, past, strict=True) for i in few
    )
    transfer = [_minus(matrix[s - 1][i], initial[i]) for i, s in enumerate(line.own) if i]
    seen = [row[:n] for row, n in zip(matrix, line.seen, strict=True)]
    unseen = [row[n:] for row, n in zip(matrix, line.seen, strict=True)]
    return {
        "avg_anytime_acc": float(anytime(line)[learning].mean()),
        "avg_incremental_acc": mean(mean(row) for row in seen),
        "learning_acc": mean(own),
        "lower_triangle_acc": mean(a for row in seen for a in row),
        "stream_acc_by_boundary": [mean(row) for row in matrix],
        "bwt": mean(_minus(matrix[-1][i], own[i]) for i in old),
        "bwt_triangular": change,
        "remembering": None if change is None else 1 - abs(min(change, 0.0)),
        "positive_bwt": None if change is None else max(change, 0.0),
        "forgetting_chaudhry": mean(_forgetting(matrix[line.own[i] : -1], i, matrix) for i in old),
        "forgetting_incl_final": mean(_forgetting(matrix[line.own[i] :], i, matrix) for i in old),
        "fwt_per_task": transfer,
        "fwt": mean(transfer),
        "fwt_triangular": mean(a for row in unseen for a in row),
    }


def at_own(line: Timeline) -> list[float | None]:
    """Accuracy on each experience when it had just been learnt."""
    ends = line.stops[line.own] - 1
    return [defined(a) for a in line.accuracy[np.arange(line.num_experiences), ends].tolist()]


def pooled(line: Timeline, sizes: Sequence[int]) -> dict[str, Any]:
    """Accuracy on the samples of everything seen, where others are means over experiences.

    sizes: the test samples of each experience. It is what papers with a large first experience
    report, as their average incremental accuracy.
    """
    rows = zip(line.matrix(), line.seen, strict=True)
    found = [_pooled(row[:n], sizes[:n]) for row, n in rows]
    return {
        "pooled_acc_by_boundary": found,
        "pooled_acc_final": found[-1],
        "avg_incremental_pooled_acc": mean(found),
    }


def _pooled(row: Cells, sizes: Sequence[int]) -> float | None:
    right = mean(None if a is None else a * n for a, n in zip(row, sizes, strict=True))
    return None if right is None else right * len(row) / sum(sizes)


def intransigence(own: Cells, joint_prefix: Cells) -> float | None:
    """How far learning each experience stays below joint training on everything up to it."""
    return mean(_minus(joint, a) for joint, a in zip(joint_prefix, own, strict=True))


def transfer_over_independent(own: Cells, independent: Cells) -> float | None:
    """How far learning each later experience lies above a model trained on it alone."""
    pairs = zip(own[1:], independent[1:], strict=True)
    return mean(_minus(a, alone) for a, alone in pairs)


def forgetting_ratio(matrix: Matrix, initial: Cells, joint_all: Cells) -> float | None:
    """What the final model keeps of the joint model's gain over the untouched one, minus 1."""
    ratios = []
    for final, untouched, joint in zip(matrix[-1], initial, joint_all, strict=True):
        kept, gain = _minus(final, untouched), _minus(joint, untouched)
        ratios.append(kept / gain if kept is not None and gain else None)
    kept_on_average = mean(ratios)
    return None if kept_on_average is None else kept_on_average - 1


def _forgetting(rows: Matrix, i: int, matrix: Matrix) -> float | None:
    """Best accuracy on i among `rows`, minus the final one."""
    past = [value for row in rows if (value := row[i]) is not None]
    return _minus(max(past), matrix[-1][i])


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
