"""The replay memory's upkeep: balance between classes, forgetting, and the cost of an update."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from clframe.core.buffer import ReplayBuffer
from clframe.core.rng import clock
from tests.unit.core.offers import consistent, offer, rows, uids

# -- class balance -------------------------------------------------------------


def test_class_balanced_gives_rare_classes_their_share() -> None:
    """900 of class 0, then 60 of class 1, then 5 of class 2, into 30: 13, 12 and all 5."""
    memory = ReplayBuffer(30, policy="class_balanced")
    step = 0
    for label, first, n in ((0, 0, 900), (1, 900, 60), (2, 960, 5)):
        for start in range(first, first + n, 5):
            offer(memory, step, first=start, n=5, label=label)
            step += 1
    consistent(memory)
    count = Counter(memory.column("y").tolist())
    assert count[2] == 5 and sorted(count.values()) == [5, 12, 13]
    assert len(memory) == 30 and memory.offered == 965


def test_class_balanced_is_a_reservoir_within_a_class() -> None:
    """One class is a plain reservoir; a second one then takes half, of no favourite samples."""
    first: Counter[int] = Counter()
    second: Counter[int] = Counter()
    for seed in range(300):
        memory = ReplayBuffer(10, policy="class_balanced")
        for step in range(10):
            offer(memory, step, seed, first=5 * step, n=5, label=0)
        first.update(uids(memory))
        for step in range(10, 20):
            offer(memory, step, seed, first=5 * step, n=5, label=1)
        assert sorted(Counter(memory.column("y").tolist()).values()) == [5, 5]
        second.update(uids(memory))
    for counts, members, share in (
        (first, range(50), 300 * 10 / 50),
        (second, range(50), 300 * 5 / 50),
        (second, range(50, 100), 300 * 5 / 50),
    ):
        seen = torch.tensor([counts[s] for s in members], dtype=torch.float64)
        chi_squared = ((seen - share) ** 2 / share).sum().item()
        assert seen.sum() == share * 50 and 15 < chi_squared < 90  # about 49 degrees of freedom


def test_class_balanced_evicts_only_from_the_largest() -> None:
    memory = ReplayBuffer(6, policy="class_balanced")
    offer(memory, 0, first=0, n=4, label=0)
    offer(memory, 1, first=4, n=2, label=1)
    for step in range(2, 12):
        before = Counter(memory.column("y").tolist())
        offer(memory, step, first=3 * step, n=1, label=step % 5)
        after = Counter(memory.column("y").tolist())
        lost = [c for c in before if after[c] < before[c]]
        assert all(before[c] == max(before.values()) for c in lost)
        consistent(memory)


# -- forgetting ----------------------------------------------------------------


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
def test_forget_drops_rows_and_their_pixels(policy: str) -> None:
    memory = ReplayBuffer(6, policy=policy)
    offer(memory, 0, first=1, n=6)
    assert memory.forget(uids=torch.tensor([2, 5, 77])) == 2
    assert sorted(uids(memory)) == [1, 3, 4, 6] and len(memory) == 4
    consistent(memory)
    kept = memory.state_dict()["column_x"]
    assert (kept[4:] == 0).all() and not torch.isin(kept, torch.tensor([2, 5])).any()
    drawn = memory.sample(6)
    assert drawn is not None and len(drawn["uid"]) == 4
    offer(memory, 1, first=10, n=2)
    assert len(memory) == 6
    consistent(memory)


def test_forget_scales_what_was_offered() -> None:
    memory = ReplayBuffer(10)
    for step in range(10):
        offer(memory, step, first=10 * step, n=10)
    assert memory.forget(uids=torch.tensor(uids(memory)[:4])) == 4
    assert (len(memory), memory.offered) == (6, 60)
    assert memory.forget(uids=torch.tensor(uids(memory))) == 6
    assert (len(memory), memory.offered) == (0, 0)
    assert memory.sample(3) is None and memory.forget(uids=torch.tensor([1])) == 0


def test_forget_scales_the_offers_of_the_classes_that_lost_rows() -> None:
    """A class that keeps a third of its rows counts a third of its offers; others are as full."""
    memory = ReplayBuffer(12, policy="class_balanced")
    for step in range(10):
        offer(memory, step, first=12 * step, n=12)
    held = memory.column("uid")[memory.column("y") == 0]
    assert len(held) == 12 // 3
    memory.forget(uids=held[:3])
    state = memory.get_extra_state()
    assert state["offers"] == {0: 10, 1: 40, 2: 40} and state["full"] == [1, 2]


def test_a_forgotten_class_may_come_back() -> None:
    """It was full and large once; neither may keep its new samples out of a full memory."""
    memory = ReplayBuffer(6, policy="class_balanced")
    for step in range(10):
        offer(memory, step, first=6 * step, n=6, label=0)
    memory.forget(uids=torch.arange(60))
    for step in range(10, 20):
        offer(memory, step, first=6 * step, n=6, label=1)
    for step in range(20, 30):
        offer(memory, step, first=6 * step, n=6, label=0)
    assert sorted(Counter(memory.column("y").tolist()).values()) == [3, 3]
    consistent(memory)


# -- cost ----------------------------------------------------------------------


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the elements that tensor operations read and write, views and handles apart."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "index_copy_" not in str(func):
            self.elements += out.numel() if isinstance(out, Tensor) else 0
        if "index_copy_" in str(func):  # returns the whole store, writes only the source's rows
            self.elements += args[3].numel()
        return out


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
def test_an_update_costs_the_batch_not_the_memory(policy: str) -> None:
    """Calls of any function and elements touched, in a full memory of 50 and of 5,000 samples."""
    costs = []
    for capacity in (50, 5000):
        memory = ReplayBuffer(capacity, policy=policy)
        for step in range(12):
            offer(memory, step, first=step * capacity // 10, n=capacity // 10)
        assert len(memory) == capacity
        memory.offered = 10**9  # so that both keep the old rows, or in classes both take one path
        memory._offers = dict.fromkeys(memory._offers, 10**9)
        calls = 0

        def count(frame: FrameType, event: str, arg: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        batch = rows(0, 8)
        with Operations() as operations:
            clock.set(0, 99)
            memory.add(**batch)
        clock.set(0, 100)
        gc.disable()  # whose callbacks would count as well
        sys.setprofile(count)
        memory.add(**batch)
        sys.setprofile(None)
        gc.enable()
        costs.append((calls, operations.elements))
    assert costs[0] == costs[1]
    assert 0 < costs[0][1] < 8 * 20
