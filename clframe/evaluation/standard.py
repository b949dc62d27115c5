"""The metrics most papers report, from the accuracies at the boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clframe.evaluation.continual import anytime
from clframe.evaluation.timeline import Timeline, mean

Cells = Sequence[float | None]
Matrix = Sequence[Cells]


def standard(line: Timeline) -> dict[str, Any]:
    """The keys that need no reference run; Any because some are lists."""
    matrix, initial, num = line.matrix(), line.initial(), line.num_experiences
    own = [matrix[k][k] for k in range(num)]
    change = mean(_minus(matrix[k][i], own[i]) for k in range(num) for i in range(k))
    transfer = [_minus(matrix[i - 1][i], initial[i]) for i in range(1, num)]
    return {
        "avg_anytime_acc": float(anytime(line).mean()),
        "avg_incremental_acc": mean(mean(row[: k + 1]) for k, row in enumerate(matrix)),
        "learning_acc": mean(own),
        "lower_triangle_acc": mean(matrix[k][i] for k in range(num) for i in range(k + 1)),
        "stream_acc_by_boundary": [mean(row) for row in matrix],
        "bwt": mean(_minus(matrix[-1][i], own[i]) for i in range(num - 1)),
        "bwt_triangular": change,
        "remembering": None if change is None else 1 - abs(min(change, 0.0)),
        "positive_bwt": None if change is None else max(change, 0.0),
        "forgetting_chaudhry": mean(_forgetting(matrix, i, num - 1) for i in range(num - 1)),
        "forgetting_incl_final": mean(_forgetting(matrix, i, num) for i in range(num - 1)),
        "fwt_per_task": transfer,
        "fwt": mean(transfer),
        "fwt_triangular": mean(matrix[k][i] for k in range(num) for i in range(k + 1, num)),
    }


def pooled(matrix: Matrix, sizes: Sequence[int]) -> dict[str, Any]:
    """Accuracy on the samples of everything seen, where others are means over experiences.

    sizes: the test samples of each experience. It is what papers with a large first experience
    report, as their average incremental accuracy.
    """
    found = [_pooled(row[: k + 1], sizes[: k + 1]) for k, row in enumerate(matrix)]
    return {
        "pooled_acc_by_boundary": found,
        "pooled_acc_final": found[-1],
        "avg_incremental_pooled_acc": mean(found),
    }


def _pooled(row: Cells, sizes: Sequence[int]) -> float | None:
    right = mean(None if a is None else a * n for a, n in zip(row, sizes, strict=True))
    return None if right is None else right * len(row) / sum(sizes)


def intransigence(matrix: Matrix, joint_prefix: Cells) -> float | None:
    """How far learning each experience stays below joint training on everything up to it."""
    return mean(_minus(joint, matrix[k][k]) for k, joint in enumerate(joint_prefix))


def transfer_over_independent(matrix: Matrix, independent: Cells) -> float | None:
    """How far learning each later experience lies above a model trained on it alone."""
    pairs = list(enumerate(independent))[1:]
    return mean(_minus(matrix[k][k], alone) for k, alone in pairs)


def forgetting_ratio(matrix: Matrix, initial: Cells, joint_all: Cells) -> float | None:
    """What the final model keeps of the joint model's gain over the untouched one, minus 1."""
    ratios = []
    for final, untouched, joint in zip(matrix[-1], initial, joint_all, strict=True):
        kept, gain = _minus(final, untouched), _minus(joint, untouched)
        ratios.append(kept / gain if kept is not None and gain else None)
    kept_on_average = mean(ratios)
    return None if kept_on_average is None else kept_on_average - 1


def _forgetting(matrix: Matrix, i: int, stop: int) -> float | None:
    """Best accuracy on i at the boundaries i..stop-1, minus the final one."""
    past = [value for row in matrix[i:stop] if (value := row[i]) is not None]
    return _minus(max(past), matrix[-1][i])


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
