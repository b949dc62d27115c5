"""Several processes acting as one; every function is the plain operation on a single process."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as td
from torch import Tensor, nn


def world() -> int:
    """How many processes train together."""
    return td.get_world_size() if td.is_available() and td.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return td.get_rank() if td.is_available() and td.is_initialized() else 0


def part(n: int) -> slice:
    """This rank's contiguous share of `n` rows; shares differ by at most one row."""
    if world() == 1:
        return slice(0, n)
    size, extra = divmod(n, world())
    start = rank() * size + min(rank(), extra)
    return slice(start, start + size + (rank() < extra))


def total(values: Tensor) -> Tensor:
    """Sum over ranks, elementwise."""
    if world() == 1:
        return values
    values = values.clone()
    td.all_reduce(values)
    return values


def sizes(n: int, device: torch.device) -> list[int]:
    """The local row counts of all ranks, in rank order."""
    if world() == 1:
        return [n]
    out = torch.empty(world(), dtype=torch.long, device=device)
    td.all_gather_into_tensor(out, torch.tensor([n], device=device))
    return [int(v) for v in out.tolist()]


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, in the order of the global batch: [n, ...] -> [sum of n, ...]."""
    if world() == 1:
        return rows
    counts = sizes(len(rows), rows.device)
    widest = max(counts)
    if not widest:
        return rows
    padded = rows.new_zeros((widest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    flat = padded.view(torch.uint8) if padded.dtype == torch.bool else padded
    out = flat.new_empty((world() * widest, *flat.shape[1:]))
    td.all_gather_into_tensor(out, flat.contiguous())
    parts = out.view(padded.dtype).split(widest)
    return torch.cat([p[:c] for p, c in zip(parts, counts, strict=True)])


def mean(values: Tensor) -> Tensor:
    """Mean of per-sample values over the global batch.

    Scaled so that averaging the ranks' gradients gives the gradient of the global mean, also when
    ranks hold different numbers of rows. Zero for an empty batch.
    """
    if world() == 1:
        return values.mean() if len(values) else values.sum()
    count = total(torch.tensor(float(len(values)), device=values.device))
    return values.sum() * (world() / count.clamp(min=1))


def average_gradients(grads: Iterable[Tensor]) -> None:
    """Average tensors over ranks in place, as one message."""
    tensors = list(grads)
    if world() == 1 or not tensors:
        return
    flat = torch.cat([g.reshape(-1) for g in tensors])
    td.all_reduce(flat)
    flat /= world()
    for g, piece in zip(tensors, flat.split([g.numel() for g in tensors]), strict=True):
        g.copy_(piece.view_as(g))


def mean_grad(loss: Tensor, params: Iterable[nn.Parameter]) -> list[Tensor]:
    """Gradient of `loss` for each parameter, averaged over ranks; zeros where it does not reach."""
    wanted = list(params)
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    out = [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, grads, strict=True)]
    average_gradients(out)
    return out


def average_batch_norm(module: nn.Module) -> None:
    """Give every rank the mean of the ranks' running statistics, where they are still running."""
    if world() == 1:
        return
    average_gradients(
        b
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        for b in (m.running_mean, m.running_var)
        if b is not None
    )
