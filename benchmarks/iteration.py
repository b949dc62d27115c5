"""Cost of an iteration evaluated at rho=1: clframe against a bare PyTorch loop doing the same work.

    python benchmarks/iteration.py --rounds 3

Split Fashion-MNIST, five experiences, experience replay with 10 new and 10 replayed samples a
step, 1,000 fixed test samples of every seen experience evaluated after every update. Both run in
processes of their own, in turn, on one thread; the clock is process CPU time of experiences 2 to 5
(wall time on a GPU), and the figure is the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, CAPACITY, RATE = 10, 500, 0.05


def clock(device: str) -> float:
    """CPU seconds of this process; on a GPU, wall seconds behind everything queued."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def bare(args: argparse.Namespace) -> dict[str, Any]:
    """The loop that a careful researcher would write by hand."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from clframe.core.backbones import BACKBONES
    from clframe.sources import load_images

    torch.manual_seed(0)
    data = load_images("fashion_mnist")
    mean, std = data.mean[0], data.std[0]

    def floats(x: torch.Tensor) -> torch.Tensor:
        out = (x.float() / 255 - mean) / std
        return out.contiguous(memory_format=torch.channels_last) if args.net != "mlp" else out

    backbone, width = BACKBONES[args.net]((1, 28, 28))
    net = torch.nn.Sequential(backbone, torch.nn.Linear(width, 10))
    if args.net != "mlp":
        net = net.to(memory_format=torch.channels_last)
    net = net.to(args.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    rng = np.random.RandomState(0)
    train, test_x, test_y = [], [], []
    for e in range(5):
        rows = np.flatnonzero(data.train_y.numpy() // 2 == e)
        train.append(rng.permutation(rows)[: args.iters * BATCH])
        rows = np.flatnonzero(data.test_y.numpy() // 2 == e)[:1000]
        test_x.append(floats(data.test_x[rows]))
        test_y.append(data.test_y[rows])
    x, y = floats(data.train_x[np.concatenate(train)]), data.train_y[np.concatenate(train)]
    x, y, xe, ye = (t.to(args.device) for t in (x, y, torch.cat(test_x), torch.cat(test_y)))
    memory, offered, first, history = np.zeros(CAPACITY, np.int64), 0, 0, []
    chunk = 8192 if args.device == "cuda" else 1000 if args.net == "mlp" else 250
    seconds = []
    for e in range(5):
        order = first + rng.permutation(args.iters * BATCH)
        first += len(order)
        begin = clock(args.device)
        for i in range(args.iters):
            new = order[i * BATCH : (i + 1) * BATCH]
            filled = min(offered, CAPACITY)
            old = memory[rng.permutation(filled)[:BATCH]]
            index = torch.from_numpy(np.concatenate([new, old])).to(args.device)
            optimizer.zero_grad()
            F.cross_entropy(net(x.index_select(0, index)), y.index_select(0, index)).backward()
            optimizer.step()
            for row in new:
                slot = offered if offered < CAPACITY else rng.randint(offered + 1)
                if slot < CAPACITY:
                    memory[slot] = row
                offered += 1
            if args.rho and i % args.rho == 0:
                net.eval()
                with torch.inference_mode():
                    n = (e + 1) * 1000
                    logits = torch.cat([net(c) for c in xe[:n].split(chunk)])
                    history.append((logits.argmax(1) == ye[:n]).view(e + 1, -1).sum(1))
                net.train()
        seconds.append(clock(args.device) - begin)
    final = (history[-1] / 1000).tolist() if history else None
    return {"impl": "bare", "seconds": sum(seconds[1:]), "final": final}


def clframe(args: argparse.Namespace) -> dict[str, Any]:
    """The same through a run of clframe: Lightning, journal, checkpoints, boundaries and all."""
    from clframe.config.identity import to_yaml
    from clframe.config.load import load_run
    from clframe.core.experience import Experience
    from clframe.engine.session import Run
    from clframe.tracking.store import RunRecord, RunStore

    seconds = []

    class Timed(Run):
        def _experience(self, exp: Experience) -> None:
            begin = clock(args.device)
            super()._experience(exp)
            seconds.append(clock(args.device) - begin)

    options = f"options.split_fmnist.train_limit={args.iters * BATCH // 2}"
    cfg = load_run(
        [
            "strategy=replay",
            "scenario=split_fmnist",
            f"batch_size={BATCH}",
            f"net.name={args.net}",
            f"optim.lr={RATE}",
            f"options.replay.capacity={CAPACITY}",
            "eval.subset=1000",
            f"eval.rho={args.rho}",
            f"accelerator={'gpu' if args.device == 'cuda' else 'cpu'}",
            options,
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "cell")
        store.folder.mkdir()
        store.config_path.write_text(to_yaml(cfg))
        store.write_record(RunRecord(id="bench", grid="bench", started_ms=0))
        run = Timed(cfg, store, True)
        run.all()
        rows = store.read_boundary("net/all").to_pylist()
    final = [r["accuracy"] for r in rows[-5:]]
    return {"impl": "clframe", "seconds": sum(seconds[1:]), "final": final}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--net", default="mlp", choices=["mlp", "cnn", "slim_resnet18"])
    p.add_argument("--iters", type=int, default=300, help="updates per experience")
    p.add_argument("--rho", type=int, default=1)
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", choices=["bare", "clframe"], help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.only:
        import torch

        torch.set_num_threads(1)
        result = {"bare": bare, "clframe": clframe}[args.only](args)
        updates = 4 * args.iters
        evaluated = sum(range(2, 6)) * args.iters * 1000 / args.rho if args.rho else 0
        result |= {"net": args.net, "rho": args.rho}
        result["ms_per_update"] = result["seconds"] / updates * 1e3
        if evaluated:
            result["us_per_evaluated_sample"] = result["seconds"] / evaluated * 1e6
        print(json.dumps(result), flush=True)
        return
    ratios = []
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for r in range(args.rounds):
        cost = {}
        for which in ("bare", "clframe") if r % 2 == 0 else ("clframe", "bare"):
            out = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", which],
                env=env,
                check=True,
                capture_output=True,
                text=True,
            ).stdout.splitlines()[-1]
            print(out, flush=True)
            cost[which] = json.loads(out)["seconds"]
        ratios.append(cost["clframe"] / cost["bare"])
    print(
        f"clframe / bare, {args.net}, rho={args.rho}: median {statistics.median(ratios):.3f} "
        f"[{min(ratios):.3f} - {max(ratios):.3f}] over {args.rounds} rounds"
    )


if __name__ == "__main__":
    main()
