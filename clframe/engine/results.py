"""The end of a run: tables from the journal, metrics from the tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from clframe.core.experience import Experience, Stream
from clframe.evaluation.envelope import envelope
from clframe.evaluation.metrics import sizes_of, summarize
from clframe.evaluation.order import retained
from clframe.evaluation.trace import AccuracyTrace
from clframe.evaluation.unlearning import summarize as summarize_unlearning
from clframe.tracking.journal import Journal
from clframe.tracking.store import RunStore
from clframe.tracking.traces import columns

# what minima and gaps are made of stays with the dense trace on the fixed subsets; everything that
# is known at boundaries alone is taken from the full test sets
FROM_TRACE = {
    "n_experiences",
    "boundaries",
    "eval_iterations",
    "min_acc_final",
    "min_acc_by_boundary",
    "min_acc_per_task",
    "min_acc_curve",
    "wc_acc_final",
    "wc_acc_by_boundary",
    "wc_acc_curve",
    "aa_curve",
    "wf",
    "wf_per_task",
    "wp",
    "wp_per_task",
    "lca_agem",
    "lca_first_evals",
    "gap",
    "avg_anytime_acc",
}
DESCRIBES = {"n_experiences", "boundaries", "eval_iterations"}
POINTS = 320  # what MLflow's charts draw of a curve


def finish(store: RunStore, stream: Stream, reference: str | None) -> None:
    """Write the tables and metrics of a run whose stream has ended, and mark it done."""
    store.write_traces()
    primary = store.read_record().primary
    kept = retained(stream.order())
    asked = [e.index for e in stream if e.kind == "forget"]
    metrics = measure(store, primary, kept, asked) | unlearned(store, primary, stream)
    if reference is not None:  # retrained at each experience: it has no gaps to speak of
        metrics |= dict.fromkeys(FROM_TRACE - DESCRIBES)
    store.write_metrics(metrics)
    _append_envelopes(store, primary)
    store.update_record(status="done", metrics=flatten(metrics))


def measure(store: RunStore, primary: str, kept: list[int], asked: list[int]) -> dict[str, Any]:
    """`summarize` of the trace, with what belongs to boundaries from the full test sets."""
    tables = store.read_trace(primary), store.read_boundary(primary)
    traces = [AccuracyTrace.from_columns(columns(t), primary) for t in tables]
    if not kept:  # everything has been forgotten
        return {"n_experiences": 0}
    sizes = sizes_of(store.read_record().data, kept)
    dense, full = (summarize(t.rows(), kept=kept, requests=asked, sizes=sizes) for t in traces)
    return {k: v if k in FROM_TRACE else full[k] for k, v in dense.items()}


def unlearned(store: RunStore, primary: str, stream: Stream) -> dict[str, Any]:
    """What forgetting whole experiences did, under `unlearning`; nothing where none was forgotten.

    From the full test sets. Chance is one in as many classes as the primary readout allows at each
    request. Nothing either where an experience has lost some of its classes alone: its accuracy
    is then of what is held and of what is not.
    """
    if not any(e.forgets for e in stream) or any(_halved(e, stream) for e in stream):
        return {}
    table: dict[tuple[int, int], float] = {}  # the last row of each position wins
    for row in store.read_boundary(primary).to_pylist():
        table[row["train_experience"], row["eval_experience"]] = row["accuracy"]
    place = {k: i for i, k in enumerate(_tasks(stream))}
    asked, named, rows = requests_of(stream), [], []
    column: dict[int, int] = {}  # by task: the position at which it was last learned
    for position, op, tasks in asked:
        if op == "L":
            column[tasks[0]] = position
        named.append((op, [place[k] for k in tasks]))
        rows.append([table.get((position, column.get(k, -1))) for k in place])
    found = summarize_unlearning(named, rows, _chance(stream, primary, [p for p, _, _ in asked]))
    for row, (position, _, _) in zip(found["rows"], asked, strict=True):
        row["position"] = position
    return {"unlearning": found | {"tasks": _tasks(stream)}}


def requests_of(stream: Stream) -> list[tuple[int, str, list[int]]]:
    """(position, "L" or "U", numbers of the scenario's experiences).

    A request that leaves something of every experience is none of these.
    """
    origins = {e.index: e.origin for e in stream.learned}
    return [
        (e.index, "L", [e.origin])
        if e.kind == "learn"
        else (e.index, "U", [origins[p] for p in e.forgets])
        for e in stream
        if e.kind == "learn" or e.forgets
    ]


def _halved(request: Experience, stream: Stream) -> bool:
    """Whether it empties classes of an experience that it leaves others of."""
    gone = {p for r in stream if r.index <= request.index for p in r.forgets}
    before = [e for e in stream.learned if e.index < request.index and e.index not in gone]
    return any(set(e.classes) & set(request.emptied) for e in before)


def _chance(stream: Stream, primary: str, positions: Sequence[int]) -> list[list[float]]:
    """After each request, one in the number of classes that an answer about a task may be."""
    classes = {e.origin: e.classes for e in stream.learned}
    if primary.endswith("/task"):
        return [[1 / len(classes[k]) for k in _tasks(stream)]] * len(positions)
    seen = [{c for e in stream.learned if e.index <= p for c in e.classes} for p in positions]
    return [[1 / len(found)] * len(_tasks(stream)) for found in seen]


def _tasks(stream: Stream) -> list[int]:
    return sorted({e.origin for e in stream.learned})


def flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, float | None]:
    """The scalars of `summarize`, nested ones with their keys joined by `/`; no pairs, no lists."""
    flat: dict[str, float | None] = {}
    for key, value in metrics.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and key != "pairs":
            flat |= flatten(value, f"{name}/")
        elif value is None or isinstance(value, int | float):
            flat[name] = value
    return flat


def _append_envelopes(store: RunStore, primary: str) -> None:
    """Per experience a curve of at most `POINTS` points that keeps every dip, for MLflow."""
    trace = AccuracyTrace.from_columns(columns(store.read_trace(primary)), primary)
    journal = Journal(store.journal_path, os.path.getsize(store.journal_path))
    order = np.argsort(trace.eval_experience, kind="stable")
    found, starts = np.unique(trace.eval_experience[order], return_index=True)
    for e, mine in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
        steps, values = envelope(trace.iteration[mine], trace.accuracy[mine], (POINTS - 1) // 3)
        journal.append(
            "metrics",
            keys=np.array([f"envelope/exp_{e:02d}"]),
            iteration=steps,
            values=values[:, None],
        )
    journal.close()
