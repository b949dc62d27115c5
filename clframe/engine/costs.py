"""What a run has cost: updates, samples, memory, past data read, and where the seconds went."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from clframe.core.memory import Memory

if TYPE_CHECKING:
    from clframe.engine.session import Run


def spending(run: Run) -> dict[str, float]:
    """What grows while an experience is being met, evaluation apart."""
    watched = run.evaluator.seconds if run.evaluator else 0.0
    counts = {"updates": run.position.iteration, "samples": run.position.samples}
    return counts | {"seconds": time.perf_counter() - watched}


def account(run: Run) -> None:
    """Write the cost columns of a run whose stream has ended into its record."""
    total = run.seconds["total"] + time.perf_counter() - run.began
    known = run.restored.get("evaluator", {})  # a run killed behind its last experience
    evaluate = run.evaluator.seconds if run.evaluator is not None else known["seconds"]
    other = run.seconds["build"] + run.seconds["checkpoint"]
    memories = [m for m in run.strategy.modules() if isinstance(m, Memory)]
    if run.evaluator is not None:
        run.store.update_record(counting=run.evaluator.facts())
    run.store.update_record(
        iteration=run.position.iteration,
        spent=run.spent,
        seconds={
            "train": total - evaluate - other,
            "evaluate": evaluate,
            "other": other,
            "total": total,
        },
        cost={
            "updates": run.position.iteration,
            "samples": run.position.samples,
            "past_samples": run.position.past_samples,
            "memory_bytes": sum(m.num_bytes for m in memories),
            "memory_samples": sum(len(m) for m in memories),
            "parameters": sum(p.numel() for p in run.strategy.parameters()),
            **run.pretraining.get("facts", {}),
        },
    )
