"""Grid folders as training leaves them, with dips whose depth is known, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from clframe.config.identity import resolved, run_id
from clframe.config.schema import RunConfig
from clframe.evaluation.metrics import summarize
from clframe.evaluation.trace import AccuracyTrace
from clframe.tracking import traces
from clframe.tracking.store import RunRecord, RunStore

# strategy -> (share lost at a switch, share lost for good, updates to come back)
TEMPER = {
    "fine_tune": (0.95, 0.80, 8.0),
    "replay": (0.45, 0.12, 9.0),
    "derpp": (0.35, 0.06, 12.0),
    "er_ace": (0.20, 0.10, 10.0),
    "der": (0.38, 0.09, 11.0),
    "ewc": (0.80, 0.60, 14.0),
    "lwf": (0.70, 0.45, 16.0),
    "joint": (0.0, 0.0, 1.0),
    "independent": (1.0, 1.0, 1.0),
}
REFERENCES = ("joint", "independent")
SIZE, TOTAL = 250, 1000  # samples that an accuracy here is a share of, and in the files


def accuracies(
    strategy: str, lengths: Sequence[int], rng: np.random.Generator, peak: float = 0.95
) -> np.ndarray:
    """A[t, i]: accuracy on i after t updates, over the whole stream and its start."""
    fall, lost, slow = TEMPER[strategy]
    fall, lost = fall * rng.uniform(0.8, 1.05), lost * rng.uniform(0.8, 1.05)
    count, total = len(lengths), sum(lengths)
    table = np.full((total + 1, count), np.nan)
    level = np.full(count, 0.1)
    table[0] = level
    begin = 0
    for k, length in enumerate(lengths):
        before = level.copy()
        for j in range(1, length + 1):
            up = 1 - np.exp(-j / 6.0)
            for i in range(count):
                if i == k:
                    level[i] = 0.1 + (peak - 0.1) * up
                elif i < k:
                    kept = before[i] * (1 - lost)
                    dip = before[i] * max(fall - lost, 0) * np.exp(-((j - 2) / slow)) * (j > 1)
                    start = before[i] * (1 - fall) if j <= 2 else kept - dip
                    level[i] = max(start, 0.0)
            noise = rng.normal(0, 0.012, count)
            table[begin + j] = np.round(np.clip(level + noise, 0, 1) * SIZE) / SIZE
        begin += length
    return table


def rows_of(table: np.ndarray, lengths: Sequence[int], *, boundaries: bool, rho: int = 1) -> list:
    """(iteration, train_experience, eval_experience, accuracy); to come only where rule 2 says."""
    rows = [(0, 0, i, float(table[0, i])) for i in range(len(lengths))]
    begin = 0
    for k, length in enumerate(lengths):
        for j in range(1, length + 1):
            last = j == length
            if last or (not boundaries and (j - 1) % rho == 0):
                seen = range(len(lengths) if last else k + 1)
                rows += [(begin + j, k, i, float(table[begin + j, i])) for i in seen]
        begin += length
    return rows


def parquet(rows: list, path: Path, readouts: Sequence[str] = ("net/seen", "net/all")) -> None:
    """Write rows as a trace file; readouts after the first are worse, to be told apart."""
    columns: dict[str, list] = {name: [] for name in traces.SCHEMA.names}
    for place, readout in enumerate(readouts):
        for t, e, i, a in rows:
            correct = round(a * TOTAL / (1 + place))
            for name, value in zip(
                columns, (t, e, i, readout, correct / TOTAL, correct, TOTAL), strict=True
            ):
                columns[name].append(value)
    columns["readout"] = pa.array(columns["readout"]).dictionary_encode()
    traces.write(pa.table(columns, schema=traces.SCHEMA), path)


def config(strategy: str, scenario: str, seed: int, **changes: Any) -> RunConfig:
    facts = {"strategy": strategy, "scenario": scenario, "seed": seed, "eval": {"subset": SIZE}}
    return RunConfig.model_validate(facts | changes)


def ordered(order: str) -> list[dict[str, Any]]:
    """A stream as its record describes it, from words such as "L0 L1 u1 U0,1 L0"; u: of a part."""
    stream: list[dict[str, Any]] = []
    for index, word in enumerate(order.split()):
        op, numbers = word[0], [int(n) for n in word[1:].split(",")]
        last = {e["origin"]: e["index"] for e in stream if e["kind"] == "learn"}
        row = {"index": index, "origin": numbers[0], "kind": "learn" if op == "L" else "forget"}
        row |= {"forgets": [last[n] for n in numbers] if op == "U" else []}
        row |= {"touches": [] if op == "L" else numbers, "eval_size": 100 * (index + 1)}
        row["classes"] = [2 * n + i for n in numbers for i in range(1 if op == "u" else 2)]
        stream.append(row)
    return stream


def write_cell(
    grid: Path,
    cfg: RunConfig,
    table: np.ndarray | None,
    lengths: Sequence[int],
    *,
    stream: list[dict[str, Any]] | None = None,
    status: str = "done",
    error: str | None = None,
) -> Path:
    """One cell's folder in the formats of the tracking room; `table` None: nothing was measured."""
    folder = grid / run_id(cfg)
    store = RunStore(folder)
    store.write_config(resolved(cfg).model_dump())
    rho, strategy = cfg.eval.rho, cfg.strategy
    stream = stream or ordered(" ".join(f"L{k}" for k in range(len(lengths))))
    learned = {e["index"] for e in stream if e["kind"] == "learn"}
    held = sorted(learned - {p for e in stream for p in e["forgets"]})
    record = {"id": folder.name, "grid": grid.name, "status": status, "error": error}
    record |= {"started_ms": 1, "iteration": sum(lengths), "total_iterations": sum(lengths)}
    record |= {"seconds": {"train": 3.0, "evaluate": 1.0, "other": 0.5, "total": 4.5}}
    record |= {"git": {"commit": "0123456789abcdef", "dirty": False}}
    record |= {"environment": {"python": "3.11.2", "packages": {"torch": "2.15.0"}}}
    record |= {"reference": strategy if strategy in REFERENCES else None}
    record |= {"data": {"scenario": cfg.scenario, "setting": "class", "experiences": stream}}
    record |= {"eval": {**cfg.eval.model_dump(), "fixed": True}, "attempts": 1}
    record |= {"cost": {"updates": sum(lengths), "samples": 32 * sum(lengths)}}
    record["cost"] |= {"memory_bytes": 2_000_000, "memory_samples": 200, "past_samples": 999}
    store.write_record(RunRecord.model_validate(record))
    if table is not None:
        rows = rows_of(table, lengths, boundaries=False, rho=max(rho, 1))
        rows = [r for r in rows if r[2] in learned]
        trace = AccuracyTrace(*(np.array(column) for column in zip(*rows, strict=True)))
        asked = [e["index"] for e in stream if e["kind"] == "forget"]
        store.write_metrics(summarize(trace.rows(), kept=held, requests=asked))
        parquet(rows, store.trace_path)
        ends = rows_of(table, lengths, boundaries=True)
        parquet([r for r in ends if r[2] in learned], store.boundary_path)
    return folder


def write_grid(
    folder: Path,
    *,
    strategies: Sequence[str] = ("fine_tune", "replay", "derpp", "er_ace", "joint"),
    scenarios: Sequence[str] = ("split_digits", "split_fmnist"),
    seeds: int = 3,
    experiences: int = 5,
    updates: int = 60,
) -> Path:
    """A whole grid: class orders give digits' experiences other lengths for each seed."""
    folder.mkdir(parents=True)
    for s, scenario in enumerate(scenarios):
        for strategy in strategies:
            for seed in range(seeds):
                rng = np.random.default_rng([s, seed, len(strategy), ord(strategy[0])])
                sizes = np.random.default_rng([s, seed]).integers(-3, 4, experiences)
                lengths = [updates + int(x) * (s == 0) for x in sizes]
                table = accuracies(strategy, lengths, rng, peak=0.95 - 0.06 * s)
                write_cell(folder, config(strategy, scenario, seed), table, lengths)
    axes = {"strategy": list(strategies), "scenario": list(scenarios), "seed": list(range(seeds))}
    spec = {"name": folder.name, "base": {"eval": {"subset": SIZE}}, "axes": axes}
    (folder / "grid.yaml").write_text(yaml.safe_dump(spec))
    return folder
