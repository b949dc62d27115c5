"""Several processes acting as one; every function is the plain operation on a single process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as td
from torch import Tensor, nn

from clframe.errors import PeersLost

T = TypeVar("T")
_known: dict[int, tuple[Tensor, int]] = {}  # by identity: whose rows these are is not to be seen


def world() -> int:
    """How many processes train together."""
    return td.get_world_size() if td.is_available() and td.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return td.get_rank() if td.is_available() and td.is_initialized() else 0


def _meet(operation: Callable[..., Any], *arguments: Any) -> None:
    """Do something together. Raises PeersLost where the others do not come."""
    try:
        operation(*arguments)
    except RuntimeError as error:
        if not lost(error):
            raise
        raise PeersLost((str(error).splitlines() or [""])[0]) from error


def lost(error: BaseException) -> bool:
    """Whether `error` says that other ranks have gone, or never came."""
    if isinstance(error, PeersLost | td.DistError):
        return True
    said = str(error).lower()  # gloo's errors have no type of their own
    words = ("gloo", "timed out", "timeout", "connection", "pair closure")
    return world() > 1 and isinstance(error, RuntimeError) and any(word in said for word in words)


def leave() -> None:
    """Part from the other ranks; nothing, where there are none."""
    if td.is_available() and td.is_initialized():
        td.destroy_process_group()


def part(n: int) -> slice:
    """This rank's contiguous share of `n` rows; shares differ by at most one row."""
    if world() == 1:
        return slice(0, n)
    size, extra = divmod(n, world())
    start = rank() * size + min(rank(), extra)
    return slice(start, start + size + (rank() < extra))


def total(values: Tensor) -> Tensor:
    """Sum over ranks, elementwise.

    Each rank's loss may depend on the sum, so gradients are summed over ranks too; averaging those
    of the weights then does the rest.
    """
    if world() == 1:
        return values
    return cast(Tensor, _Total.apply(values))  # type: ignore[no-untyped-call]


class _Total(torch.autograd.Function):
    """The sum over ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        _meet(td.all_reduce, values)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return total(grad.contiguous())


def know(n: int, shares: Iterable[Tensor], *, anew: bool = False) -> None:
    """Note that these tensors are this rank's `part` of `n` rows, so that nobody has to ask.

    Say it on every rank alike. With `anew`, what was noted before is forgotten.
    """
    if world() == 1:
        return
    if anew:
        _known.clear()
    _known.update({id(rows): (rows, n) for rows in shares})


def sizes(*columns: Tensor) -> list[int]:
    """The row counts of all ranks, in rank order; of several columns with equally many rows."""
    first = columns[0]
    if world() == 1:
        return [len(first)]
    for rows in columns:
        if id(rows) in _known:
            size, extra = divmod(_known[id(rows)][1], world())
            return [size + (r < extra) for r in range(world())]
    out = torch.empty(world(), dtype=torch.long, device=first.device)
    _meet(td.all_gather_into_tensor, out, torch.tensor([len(first)], device=first.device))
    return [int(v) for v in out.tolist()]


def global_size(rows: Tensor) -> int:
    """How many rows all ranks have together."""
    return sum(sizes(rows))


def gather_all(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`gather` of columns with equally many rows each, as one message."""
    if world() == 1:
        return dict(columns)
    widths = {k: math.prod(v.shape[1:]) for k, v in columns.items()}
    flat = [v.reshape(len(v), widths[k]).contiguous() for k, v in columns.items()]
    counts = sizes(*columns.values())
    packed = _gather(torch.cat([v.view(torch.uint8) for v in flat], 1), counts)
    parts = packed.split([v.shape[1] * v.element_size() for v in flat], 1)
    return {
        k: piece.clone(memory_format=torch.contiguous_format)
        .view(v.dtype)
        .view(len(packed), *v.shape[1:])
        for (k, v), piece in zip(columns.items(), parts, strict=True)
    }


def agreed(thing: T) -> T:
    """What rank 0 has, on every rank."""
    if world() == 1:
        return thing
    box = [thing]
    _meet(td.broadcast_object_list, box)
    return box[0]


def everyones(thing: T) -> list[T]:
    """What each rank has, in rank order."""
    out: list[Any] = [thing]
    if world() > 1:
        out = [None] * world()
        _meet(td.all_gather_object, out, thing)
    return out


def gather(rows: Tensor, of: Tensor | None = None) -> Tensor:
    """The rows of all ranks, in the order of the global batch: [n, ...] -> [sum of n, ...].

    `of`: the rows that they belong to, one for one, if these are not themselves a batch's or a
    memory's: their number is known already. Gradients find their way back to the rank that a row
    came from, summed over all ranks.
    """
    if world() == 1:
        return rows
    counts = sizes(rows if of is None else of)
    if rows.requires_grad and torch.is_grad_enabled():
        before = sum(counts[: rank()])
        after = sum(counts) - before - len(rows)
        blank = [rows.new_zeros((n, *rows.shape[1:])) for n in (before, after)]
        return total(torch.cat([blank[0], rows, blank[1]]))
    return _gather(rows, counts)


def _gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    widest = max(counts)
    if not widest:
        return rows
    padded = rows.new_zeros((widest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    flat = padded.view(torch.uint8) if padded.dtype == torch.bool else padded
    out = flat.new_empty((world() * widest, *flat.shape[1:]))
    _meet(td.all_gather_into_tensor, out, flat.contiguous())
    parts = out.view(padded.dtype).split(widest)
    return torch.cat([p[:c] for p, c in zip(parts, counts, strict=True)])


def mean(values: Tensor, of: Tensor | None = None) -> Tensor:
    """Mean of per-sample values over the global batch; `of`: the rows that they belong to.

    Scaled so that averaging the ranks' gradients gives the gradient of the global mean, also when
    ranks hold different numbers of rows. Zero for an empty batch.
    """
    if world() == 1:
        return values.mean() if len(values) else values.sum()
    if of is not None and id(of) in _known:
        return mean_of(values, _known[id(of)][1])
    count = total(torch.tensor(float(len(values)), device=values.device))
    return values.sum() * (world() / count.clamp(min=1))


def mean_of(values: Tensor, count: int) -> Tensor:
    """The same where it is known that all ranks have `count` values together."""
    return values.sum() * (world() / max(count, 1))


def average_gradients(grads: Iterable[Tensor]) -> None:
    """Average tensors over ranks in place, as one message."""
    tensors = list(grads)
    if world() == 1 or not tensors:
        return
    flat = torch.cat([g.reshape(-1) for g in tensors])
    _meet(td.all_reduce, flat)
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
