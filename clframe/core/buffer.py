"""A fixed-size replay memory of raw samples, equal on every rank and part of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clframe.core import dist, shards
from clframe.core.memory import Memory
from clframe.core.options import check_choice, check_least
from clframe.core.rng import shared_rng


def reservoir_slots(
    filled: int, offered: int, capacity: int, uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Algorithm R (Vitter, 1985) for the next samples after `offered` others: their slots, [n].

    Empty slots, also those that `forget` left, are filled first. After that `uniform` [n] in [0, 1)
    stands for an integer on 0..(number offered before) inclusive; `capacity` or more: not kept.
    """
    n = len(uniform)
    slots = (uniform * np.arange(offered + 1, offered + n + 1)).astype(np.int64)
    first = min(n, capacity - filled)
    slots[:first] = np.arange(filled, filled + first)
    return slots


class ReplayBuffer(Memory):
    """Memory of at most `capacity` rows with named columns, preallocated at the first `add`.

    `policy` is "reservoir" (every sample ever offered stays with equal probability) or
    "class_balanced" (CBRS; Chrysakis and Moens, 2020: the largest class gives way). An update
    costs O(batch). Columns keep the dtype they are offered in, so pixels stay uint8.
    `weigh(buffer)` -> [len(buffer)] weights biases sampling; None is uniform. Every rank has all
    rows, or, if `sharded`, its share of them: the same draws, sent around when they are made.

    Raises ConfigError for a capacity below 1 or an unknown policy.
    """

    weigh: Callable[[ReplayBuffer], Tensor] | None = None
    sharded = False

    def __init__(self, capacity: int, *, policy: str = "reservoir") -> None:
        super().__init__()
        check_least(1, capacity=capacity)
        check_choice(("reservoir", "class_balanced"), policy=policy)
        self.capacity, self.policy = capacity, policy
        self.offered = 0
        self.filled = 0
        self._members: dict[int, list[int]] = {}
        self._offers: dict[int, int] = {}
        self._full: set[int] = set()

    def __len__(self) -> int:
        return self.filled

    def column(self, name: str) -> Tensor:
        """The stored rows of one column, [len(self), ...]; where sharded, ask on every rank."""
        stored = self._store(name)
        return shards.whole(stored, self.filled) if self.split else stored[: self.filled]

    @property
    def split(self) -> bool:
        """Whether a rank has but its share of the rows."""
        return self.sharded and dist.world() > 1

    @torch.no_grad()
    def add(self, **columns: Tensor) -> None:
        """Offer a batch ([n, ...] per column); rows of all ranks are offered in global order."""
        rows = dist.gather_all({k: v.detach() for k, v in columns.items()})
        if not self._columns:
            for name, value in rows.items():
                self._allocate(name, value)
        assert set(rows) == set(self._columns), f"{sorted(rows)} offered, has {self._columns}"
        n = len(next(iter(rows.values())))
        draws = torch.rand(n, 2, dtype=torch.float64, generator=shared_rng("memory/add")).numpy()
        if self.policy == "reservoir":
            taken = self._reservoir(draws)
        else:
            taken = self._balanced(draws.tolist(), rows["y"].tolist())
        if taken:  # a later row of the batch may have overwritten an earlier one: one row per slot
            slots = torch.tensor(list(taken))
            source = torch.tensor(list(taken.values()))
            if self.split:
                here = shards.mine(slots)
                slots, source = slots[here] // dist.world(), source[here]
            for name, value in rows.items():
                store = self._store(name)
                kept = value.index_select(0, _there(source, value)).to(store.device)
                store.index_copy_(0, _there(slots, store), kept)

    def _allocate(self, name: str, like: Tensor) -> None:
        """Room for a column whose rows are as those of `like`."""
        room = shards.size(self.capacity) if self.split else self.capacity
        self._put(name, like.new_zeros((room, *like.shape[1:])))

    def _reservoir(self, draws: npt.NDArray[np.float64]) -> dict[int, int]:
        slots = reservoir_slots(self.filled, self.offered, self.capacity, draws[:, 0])
        self.filled = min(self.filled + len(draws), self.capacity)
        self.offered += len(draws)
        kept = np.flatnonzero(slots < self.capacity)
        return dict(zip(slots[kept].tolist(), kept.tolist(), strict=True))

    def _balanced(self, draws: list[list[float]], labels: list[int]) -> dict[int, int]:
        taken: dict[int, int] = {}
        for row, ((keep, pick), label) in enumerate(zip(draws, labels, strict=True)):
            self._offers[label] = self._offers.get(label, 0) + 1
            self.offered += 1
            slot = self._balanced_slot(label, keep, pick)
            if slot is not None:
                taken[slot] = row
        return taken

    def _balanced_slot(self, label: int, keep: float, pick: float) -> int | None:
        mine = self._members.setdefault(label, [])
        if self.filled < self.capacity:
            mine.append(self.filled)
            self.filled += 1
            return mine[-1]
        widest = max(map(len, self._members.values()))
        largest = [c for c, m in sorted(self._members.items()) if len(m) == widest]
        self._full.update(largest)
        if label in self._full:  # a reservoir within the class
            if keep * self._offers[label] >= len(mine):
                return None
            return mine[int(pick * len(mine))]
        victims = self._members[largest[int(keep * len(largest))]]
        position = int(pick * len(victims))
        slot, victims[position] = victims[position], victims[-1]
        victims.pop()
        mine.append(slot)
        return slot

    def sample(self, n: int, device: torch.device | str | None = None) -> dict[str, Tensor] | None:
        """This rank's share of min(n, len) distinct rows, one draw for all ranks; None when empty.

        Rows come on `device` (default: where the memory lies).
        """
        if not self.filled:
            return None
        n = min(n, self.filled)
        g = shared_rng("memory/sample")
        if self.weigh is None:
            index = torch.randperm(self.filled, generator=g)[:n]
        else:
            index = torch.multinomial(self.weigh(self).cpu().double(), n, generator=g)
        stores, share = {k: self._store(k) for k in self._columns}, dist.part(n)
        if self.split:
            out = {k: v[share] for k, v in shards.fetch(stores, index).items()}
        else:
            index = index[share]
            out = {k: v.index_select(0, _there(index, v)) for k, v in stores.items()}
        out = out if device is None else {k: v.to(device) for k, v in out.items()}
        dist.know(n, out.values())
        return out

    @torch.no_grad()
    def forget(self, *, uids: Tensor) -> int:
        """Drop every row whose `uid` is among `uids` ([n] int64); returns how many went.

        What was offered before counts from then on in proportion to what is left.
        """
        if not self.filled:
            return 0
        uid = self.column("uid")
        keep = torch.nonzero(~torch.isin(uid, uids.to(uid.device))).flatten()
        dropped = self.filled - len(keep)
        for name in self._columns:
            kept, store = self.column(name).index_select(0, keep), self._store(name)
            if self.split:
                kept = shards.own(kept)
            store[: len(kept)] = kept
            store[len(kept) :] = 0  # forgotten pixels leave the checkpoint too
        self._forget_members({old: new for new, old in enumerate(keep.tolist())})
        self.offered = round(self.offered * len(keep) / self.filled)
        self.filled = len(keep)
        return dropped

    def _forget_members(self, place: dict[int, int]) -> None:
        """Renumber slots by `place`; a class that lost rows is no longer full and may refill."""
        for label, slots in list(self._members.items()):
            kept = [place[s] for s in slots if s in place]
            if len(kept) < len(slots):
                self._full.discard(label)
                self._offers[label] = round(self._offers[label] * len(kept) / len(slots))
            self._members[label] = kept

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "offered": self.offered,
            "filled": self.filled,
            "columns": list(self._columns),
            "members": {k: list(v) for k, v in self._members.items()},
            "offers": dict(self._offers),
            "full": sorted(self._full),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.offered, self.filled = state["offered"], state["filled"]
        self._members = {k: list(v) for k, v in state["members"].items()}
        self._offers, self._full = dict(state["offers"]), set(state["full"])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """On rank 0 all rows, sharded or not; so every rank must take part."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._columns if self.split else ():
            stored = shards.for_checkpoint(self._store(name), self.capacity)
            destination[f"{prefix}column_{name}"] = stored

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        extra = state_dict.get(f"{prefix}_extra_state")
        for name in extra["columns"] if extra else ():
            key = f"{prefix}column_{name}"
            if name not in self._columns:
                self._allocate(name, state_dict[key])
            if self.split:
                state_dict[key] = shards.own(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _there(index: Tensor, like: Tensor) -> Tensor:
    """A small index on the device of `like`, without waiting for that device."""
    if index.device == like.device:
        return index
    return index.to(like.device, non_blocking=True)
