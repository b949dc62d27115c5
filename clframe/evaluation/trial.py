"""A short trial at the start of a run: which chunk, and which shortcut, is cheapest here."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from clframe.core.strategy import Strategy
from clframe.evaluation.bank import EvalBank
from clframe.evaluation.counter import Plan

CHUNKS = {"cpu": (100, 250, 1000), "cuda": (2048, 8192, 32768)}
WORTH = 0.95  # of the default's time: whatever is not faster than that is not worth a change
PATIENCE = 0.5  # seconds that one candidate may take
RECHECKED = 0.1  # of the samples, which a second look computes again

Trial = tuple[Plan, dict[str, float]]


def choose(bank: EvalBank, strategy: Strategy, default: Plan, *, mode: str, fixed: bool) -> Trial:
    """The plan for this run, and the milliseconds that each candidate took.

    A chunk is a candidate only if its logits are the default's bit for bit, so that the choice is
    one of speed alone; `fixed` leaves it at the default's. A `mode` other than auto is kept.
    """
    device = bank.x.device
    if mode == "auto" and device.type == "cuda" and strategy.predicts_plainly():
        mode = "graph" if strategy.frozen_features() is None else "cached"
    found: dict[str, float] = {}
    readout = next(iter(strategy.readouts().values()))
    task = bank.task if bank.with_task else None

    def forward(rows: int, chunk: int) -> Tensor:
        parts = [slice(i, min(i + chunk, rows)) for i in range(0, rows, chunk)]
        with torch.inference_mode():
            done = [readout(bank.x[p], None if task is None else task[p]) for p in parts]
        return torch.cat(done)

    if not len(bank.x):  # more ranks than samples
        return untried(default, mode), {}
    rows = min(len(bank.x), max(CHUNKS[device.type][-1], default.chunk))
    first = seconds(lambda: forward(min(rows, default.chunk), default.chunk), device)
    if first * rows / min(rows, default.chunk) > PATIENCE:
        rows = min(rows, default.chunk)
    chunk = default.chunk
    if not fixed and rows > min(CHUNKS[device.type]):
        wanted = forward(rows, default.chunk)
        whole = [c for c in CHUNKS[device.type] if c <= rows]
        equal = [c for c in whole if torch.equal(forward(rows, c), wanted)]
        for c in dict.fromkeys((default.chunk, *equal)):
            found[f"chunk {c}"] = 1e3 * best_of(lambda c=c: forward(rows, c), device)  # type: ignore[misc]
        usual = found[f"chunk {default.chunk}"]
        fastest = min(found, key=lambda k: found[k])
        if found[fastest] < WORTH * usual:
            chunk = int(fastest.split()[1])
    if mode == "auto":
        mode = "bf16" if _bf16_pays(forward, rows, chunk, device, found) else "cached"
    plan = Plan(mode, chunk)  # type: ignore[arg-type]
    return plan, {k: round(v, 3) for k, v in found.items()}


def untried(default: Plan, mode: str) -> Plan:
    """The plan where there is nothing to try, or too little to be worth it."""
    return Plan("cached" if mode == "auto" else mode, default.chunk)  # type: ignore[arg-type]


def _bf16_pays(
    forward: Callable[[int, int], Tensor],
    rows: int,
    chunk: int,
    device: torch.device,
    found: dict[str, float],
) -> bool:
    """Whether bfloat16 with a second look would be cheaper; first on few rows, lest it be slow."""

    def quick(rows: int) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return forward(rows, chunk)

    if forward(1, chunk).dtype == torch.float64:
        return False  # whoever wants that much shall have it
    for n in (min(rows, 50), rows):
        exact = 1e3 * best_of(lambda n=n: forward(n, chunk), device)  # type: ignore[misc]
        low = 1e3 * best_of(lambda n=n: quick(n), device)  # type: ignore[misc]
        if low + RECHECKED * exact > WORTH * exact:
            found[f"bf16 {n}"] = low
            return False
    found["float32"], found["bf16"] = exact, low
    return True


def best_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the faster of two runs."""
    return min(seconds(work, device), seconds(work, device))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes: of this process alone on one CPU thread, else by the wall."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        begin = time.process_time()
        work()
        return time.process_time() - begin
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
