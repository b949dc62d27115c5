"""Samples that tell which they are, offered to a replay memory step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clframe.core.buffer import ReplayBuffer
from clframe.core.rng import clock


def rows(first: int, n: int, label: int | None = None) -> dict[str, Tensor]:
    """Samples `first`, `first + 1`, ... whose pixels, label and uid tell which they are."""
    uid = torch.arange(first, first + n)
    y = uid % 3 if label is None else torch.full((n,), label)
    x = (uid % 256).to(torch.uint8)[:, None].repeat(1, 4)
    return {"x": x, "y": y, "task": torch.zeros_like(uid), "uid": uid}


def offer(memory: ReplayBuffer, step: int, seed: int = 0, **kwargs: Any) -> None:
    clock.set(seed, step)
    memory.add(**rows(**kwargs))


def uids(memory: ReplayBuffer) -> list[int]:
    return memory.column("uid").tolist()  # type: ignore[no-any-return]


def consistent(memory: ReplayBuffer) -> None:
    """Every row is one sample, and the class-balanced books say what is in the columns."""
    for uid, x in zip(uids(memory), memory.column("x"), strict=True):
        assert (x == uid % 256).all()
    if memory.policy == "class_balanced":
        books = {c: sorted(s) for c, s in memory.get_extra_state()["members"].items() if s}
        held: dict[int, list[int]] = {}
        for slot, label in enumerate(memory.column("y").tolist()):
            held.setdefault(label, []).append(slot)
        assert books == held
