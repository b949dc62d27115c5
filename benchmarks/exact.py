"""Whether clframe counts what the bare loop counts, and whether being watched changes a run.

python benchmarks/exact.py WORK counts|weights
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bare import logits, make_net
from framework import run, words
from work import EXPERIENCES, Work, given

import clframe
from clframe.config.load import load_run
from clframe.sources import Images, load_images

EVERY = 10  # updates from one snapshot to the next


def counts(work: Work) -> dict[str, int]:
    """Snapshots of a run under training, each counted by clframe and by the bare loop's forward."""
    work = work._replace(iters=-(-work.iters // EVERY) * EVERY)  # snapshots where one is due
    folder = Path("snapshots").absolute()
    folder.mkdir()
    told = [
        *words(work._replace(rho=EVERY)),
        "strategy=snapshots+replay",
        "eval.subset=all",
        f"options.snapshots.folder={folder}",
        f"options.snapshots.every={EVERY}",
    ]
    store, *_ = run(load_run(told), work.device)
    found = store.read_trace().to_pandas()
    found = found.set_index(["iteration", "readout", "eval_experience"]).correct.to_dict()
    data, predictions, differ = load_images("fashion_mnist"), 0, 0
    for path in folder.glob("*.pt"):
        iteration = int(path.stem)
        seen = (iteration - 1) // work.updates + 1
        for (mask, e), correct in by_hand(work, path, seen, data).items():
            differ += abs(correct - found[iteration, mask, e])
            predictions += len(data.test_y) // EXPERIENCES if mask == "net/all" else 0
    return {"predictions": predictions, "differ": int(differ)}


def by_hand(work: Work, path: Path, seen: int, data: Images) -> dict[tuple[str, int], int]:
    """Correct predictions on each of the first `seen` experiences, under the masks all and seen."""
    net, state = make_net(work.net).eval(), torch.load(path)
    backbone, head = net.children()
    for part, name in ((backbone, "backbone"), (head, "head")):
        part.load_state_dict({k: state[f"{name}.{k}"] for k in part.state_dict()})
    chosen = [np.flatnonzero(data.test_y.numpy() // 2 == e) for e in range(seen)]
    rows = np.concatenate(chosen)
    x = (data.test_x[rows].float() / 255 - data.mean[0]) / data.std[0]
    if work.net != "mlp":
        x = x.contiguous(memory_format=torch.channels_last)
    out = logits(net, x, 1000 if work.net == "mlp" else 250)
    found = {}
    for mask, width in (("net/all", 10), ("net/seen", 2 * seen)):
        hits = (out[:, :width].argmax(1) == data.test_y[rows]).split([len(c) for c in chosen])
        found |= {(mask, e): int(hit.sum()) for e, hit in enumerate(hits)}
    return found


def weights(work: Work) -> dict[str, int]:
    """The same run evaluated after every update and at boundaries alone; entries that differ."""
    states = []
    for rho in (1, 0):
        store, *_ = run(load_run(words(work._replace(rho=rho))), work.device)
        states.append(clframe.load_run(store.folder).state_dict())
    watched, alone = states
    assert watched.keys() == alone.keys()
    differ = [key for key, value in watched.items() if not same(value, alone[key])]
    return {"entries": len(alone), "differ": len(differ)}


def same(one: Any, other: Any) -> bool:
    """Whether two parts of a state are the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    return bool(one == other)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work = given()
    facts = {"counts": counts, "weights": weights}[sys.argv[2]](work)
    print(json.dumps({"contender": "clframe", "net": work.net, "seed": work.seed} | facts))
