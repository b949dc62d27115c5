"""Rows dealt out to the ranks, slot s to rank s modulo their number; whole again on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from clframe.core import dist

BLOCK = 4096  # rows of all ranks that one has at a time when they are brought together


def size(slots: int) -> int:
    """Rows that a rank must have room for, of `slots` in all."""
    return -(-slots // dist.world())


def mine(slots: Tensor) -> Tensor:
    """Which of `slots` [n] lie here, as bool [n]; slot s has row s // world."""
    return slots % dist.world() == dist.rank()


def own(rows: Tensor) -> Tensor:
    """This rank's rows of all [slots, ...], with empty ones up to `size`."""
    here = rows[dist.rank() :: dist.world()]
    out = rows.new_zeros((size(len(rows)), *rows.shape[1:]))
    out[: len(here)] = here
    return out


def whole(stored: Tensor, slots: int) -> Tensor:
    """The rows of the first `slots` slots, on every rank."""
    return torch.cat([stored[:0], *_blocks(stored, slots)])


def for_checkpoint(stored: Tensor, slots: int) -> Tensor:
    """The same on the host of rank 0, a block at a time; elsewhere what is there."""
    if dist.rank():
        for _ in _blocks(stored, slots):
            continue
        return stored
    return torch.cat([stored[:0].cpu(), *(block.cpu() for block in _blocks(stored, slots))])


def _blocks(stored: Tensor, slots: int) -> Iterator[Tensor]:
    """The rows of slots 0 to `slots`, in order, as many at a time as `BLOCK` allows."""
    width = max(1, BLOCK // dist.world()) * dist.world()
    for first in range(0, slots, width):
        count = min(width, slots - first)
        here = stored[first // dist.world() :][: len(range(dist.rank(), count, dist.world()))]
        order = (torch.arange(count) % dist.world()).argsort(stable=True)  # as it is gathered
        gathered = dist.gather(here)
        block = torch.empty_like(gathered)
        block[order.to(block.device)] = gathered
        yield block


def fetch(stored: Mapping[str, Tensor], slots: Tensor) -> dict[str, Tensor]:
    """The rows of `slots` [n], which every rank asks for alike, in their order on every rank."""
    here = slots[mine(slots)] // dist.world()
    found = dist.gather_all({k: v.index_select(0, here.to(v.device)) for k, v in stored.items()})
    order = (slots % dist.world()).argsort(stable=True)
    out = {}
    for name, rows in found.items():
        out[name] = torch.empty_like(rows)
        out[name][order.to(rows.device)] = rows
    return out
