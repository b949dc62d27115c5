"""Cost of one experience on streams of 10 to 1,000 of them, with next to nothing to learn in each.

    python benchmarks/stream.py --experiences 10,100,1000

Blobs that move a little from one experience to the next, 20 training and 10 test samples each, an
MLP of 32 units, 2 updates an experience, evaluated at boundaries alone: almost nothing to compute,
so what is left is the price of having experiences. Each length runs in a process of its own, on one
thread; the clock is process CPU time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CLASSES, DIM = 5, 16


def drift(*, experiences: int) -> Any:
    """The scenario: every class in each experience, its centre a little further on."""
    import torch
    from torch.utils.data import TensorDataset

    g = torch.Generator().manual_seed(0)
    centres, towards = torch.randn(2, CLASSES, DIM, generator=g)

    def part(e: int, n: int) -> Any:
        y = torch.arange(CLASSES).repeat_interleave(n)
        at = centres + e / experiences * towards
        x = at[y] + torch.randn(len(y), DIM, generator=g)
        return SimpleNamespace(dataset=TensorDataset(x, y))

    train = [part(e, 4) for e in range(experiences)]
    return SimpleNamespace(train_stream=train, test_stream=[part(e, 2) for e in range(experiences)])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One run through the engine, and its results, with where the CPU time went."""
    from clframe.config.identity import to_yaml
    from clframe.config.load import load_run
    from clframe.core.experience import Experience
    from clframe.engine.results import finish
    from clframe.engine.session import Run
    from clframe.evaluation.evaluator import ContinualEvaluator
    from clframe.tracking.store import RunRecord, RunStore

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # as a cell does
    warnings.filterwarnings("ignore", module="lightning")
    spent: dict[str, list[float]] = {"experience": [], "boundary": []}

    def timed(which: str, call: Any) -> Any:
        def run(self: Any, *arguments: Any, **more: Any) -> Any:
            begin = time.process_time()
            try:
                return call(self, *arguments, **more)
            finally:
                spent[which].append(time.process_time() - begin)

        return run

    class Timed(Run):
        def _experience(self, exp: Experience) -> None:
            timed("experience", Run._experience)(self, exp)

    ContinualEvaluator.boundary = timed("boundary", ContinualEvaluator.boundary)  # type: ignore[method-assign]
    number = args.experiences[0]
    cfg = load_run(
        [
            f"strategy={args.strategy}",
            "scenario=stream:drift",
            f"options.drift.experiences={number}",
            "batch_size=10",
            "net.args.hidden=32",
            f"eval.rho={args.rho}",
            "eval.subset=all",
            "accelerator=cpu",
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "cell")
        store.folder.mkdir()
        store.config_path.write_text(to_yaml(cfg))
        store.write_record(RunRecord(id="bench", grid="bench", started_ms=0))
        begin = time.process_time()
        run = Timed(cfg, store, True)
        built = time.process_time() - begin
        run.all()
        begin = time.process_time()
        finish(store, run.stream, None)
        finished = time.process_time() - begin
    tail = slice(-max(number // 10, 1), None)  # the last tenth shows what grows
    each = [a - b for a, b in zip(spent["experience"], spent["boundary"][1:], strict=True)]

    def ms(values: list[float]) -> float:
        return round(1000 * sum(values) / len(values), 2)

    return {
        "experiences": number,
        "build_s": round(built, 2),
        "experience_ms": ms(each[1:]),
        "last_experience_ms": ms(each[tail]),
        "boundary_ms": ms(spent["boundary"][1:]),
        "finish_s": round(finished, 2),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    p.add_argument("--experiences", type=numbers, default=[10, 100, 300, 1000])
    p.add_argument("--strategy", default="fine_tune")
    p.add_argument("--rho", type=int, default=0)
    p.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.only:
        print(json.dumps(measure(args)), flush=True)
        return
    for number in args.experiences:
        more = ["--strategy", args.strategy, "--rho", str(args.rho)]
        subprocess.run(
            [sys.executable, __file__, *more, "--experiences", str(number), "--only"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )


if __name__ == "__main__":
    main()
