"""What each of two processes does for test_dist.py; its results go to files."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as td
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core import dist
from clframe.core.augment import CropFlip, ResizedCrop
from clframe.core.buffer import ReplayBuffer
from clframe.core.losses import (
    class_counts,
    cross_entropy,
    distillation,
    mean_squared_error,
    pair_contrast,
    proxy_contrast,
    proxy_distillation,
    relation_distillation,
)
from clframe.core.rng import clock

DTYPES = (torch.uint8, torch.int64, torch.float32, torch.bool, torch.float64)
TAKEN = ((5, 2), (0, 3), (1, 0), (0, 0))  # rows on rank 0 and rank 1


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def data() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x, target = torch.randn(7, 4, generator=g), torch.randn(7, 3, generator=g)
    return x, torch.randint(0, 3, (7,), generator=g), target


def table(n: int, first: int, dtype: torch.dtype) -> Tensor:
    return (torch.arange(first, first + 2 * n).view(n, 2) % 3).to(dtype)


def losses(part: slice) -> dict[str, Tensor]:
    """Every loss over the rows in `part` (parts differ in size), and a weight it is taken for."""
    model, (x, y, target) = net(), data()
    logits = model(x[part])
    terms = {
        "cross_entropy": cross_entropy(logits, y[part]),
        "mean_squared_error": mean_squared_error(logits, target[part]),
        "distillation": distillation(logits, target[part]),
    }
    terms |= contrasts(logits, y[part], target[part], part)
    params = list(model.parameters())
    out = {}
    for name, term in terms.items():
        term.backward(retain_graph=True)
        grads = [p.grad.clone() for p in params if p.grad is not None]
        dist.average_gradients(grads)
        out[name] = torch.cat([g.reshape(-1) for g in grads])
        model.zero_grad()
    unused = nn.Parameter(torch.zeros(2))
    got = dist.mean_grad(cross_entropy(model(x[part]), y[part]), [*params, unused])
    out["mean_grad"] = torch.cat([g.reshape(-1) for g in got])
    return out


def contrasts(z: Tensor, y: Tensor, target: Tensor, part: slice) -> dict[str, Tensor]:
    """Losses of a row that depend on the rows of all ranks, whose gradients must come back."""
    labels, everyone, index = dist.gather(y), dist.gather(z), torch.arange(7)[part]
    assert everyone.requires_grad and torch.equal(everyone[part], z)
    rivals, names = torch.cat([everyone, torch.eye(3)[labels]]), labels.repeat(2)
    stored = dist.gather(target)
    rows = {
        "proxy_contrast": proxy_contrast(z, y, class_counts(labels, 3)),
        "pair_contrast": pair_contrast(z, y, index, rivals, names, 0.5),
        "proxy_distillation": proxy_distillation(z, target, class_counts(labels, 3)),
        "relation_distillation": relation_distillation(z, index, everyone, stored, 0.5),
    }
    return {name: dist.mean_of(losses, 7) for name, losses in rows.items()}


def memory(part: slice, *, sharded: bool = False) -> dict[str, Any]:
    """A memory fed with and drawn by ranks that hold unequal shares."""
    buffer = ReplayBuffer(5)
    buffer.sharded = sharded
    x, y, _ = data()
    drawn = []
    for step in range(6):
        clock.set(0, step)
        rows = buffer.sample(3)
        drawn.append(rows)
        uid = torch.arange(7 * step, 7 * step + 7)
        buffer.add(x=x[part], y=y[part], task=y[part], uid=uid[part])
        if step == 4:
            buffer.forget(uids=torch.tensor([0, 5, 9, 17, 22]))
    again = ReplayBuffer(5)
    again.sharded = sharded
    again.load_state_dict(dist.agreed(buffer.state_dict()))
    rooms = [len(value) for name, value in again.named_buffers() if name == "column_x"]
    state = dist.agreed(again.state_dict())  # rank 0's alone is whole
    return {"state": state, "drawn": drawn[1:], "room": rooms}


def views(part: slice) -> Tensor:
    """Augmented images: the rows of one global draw."""
    x = torch.randint(0, 256, (7, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    clock.set(0, 4)
    own = x[part].to(torch.uint8)
    return torch.cat([CropFlip(2, flip=True)(own), ResizedCrop()(own)], 1)


def norms() -> nn.Module:
    """Batch norm whose statistics differ by rank until they are averaged."""
    torch.manual_seed(dist.rank())
    module = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    module(torch.randn(8, 3))
    dist.average_batch_norm(module)
    return module


def work(rank: int, world: int, folder: str) -> None:
    """One process of the group."""
    torch.set_num_threads(1)
    td.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    part = slice(0, 4) if rank == 0 else slice(4, 7)
    assert dist.part(7) == part
    gathered = {
        (str(dtype), taken): dist.gather(table(taken[rank], 2 * rank, dtype))
        for dtype in DTYPES
        for taken in TAKEN
    }
    out = {
        "world": (dist.world(), dist.rank()),
        "parts": [(dist.part(n).start, dist.part(n).stop) for n in range(6)],
        "sizes": dist.sizes(torch.zeros(3 + rank)),
        "total": dist.total(torch.tensor([1.0 + rank, 10.0])),
        "gathered": gathered,
        "empty_mean": dist.mean(torch.ones(rank * 2)),
        "losses": losses(part),
        "memory": memory(part),
        "shards": memory(part, sharded=True),
        "together": [
            dist.gather_all({str(d): table(taken[rank], 2 * rank, d) for d in DTYPES})
            for taken in TAKEN
        ],
        "global_size": dist.global_size(torch.zeros(3 + rank)),
        "agreed": (dist.agreed(rank + 5), dist.everyones(rank + 5)),
        "views": views(part),
        "norms": norms().state_dict(),
    }
    logits = F.one_hot(torch.tensor([rank]), 3).float().requires_grad_()
    out["no_grads"] = dist.average_gradients([])
    out["mixed"] = dist.mean_grad(logits.sum() * (rank + 1), [nn.Parameter(logits)])  # unreached
    torch.save(out, f"{folder}/{rank}.pt")
    td.destroy_process_group()
