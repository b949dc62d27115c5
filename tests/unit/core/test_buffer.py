"""The replay memory: who stays, with what probability, at what cost, and after a resume."""

from __future__ import annotations

import io
import itertools
import sys
from collections import Counter
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from clframe.core.buffer import ReplayBuffer, reservoir_slot
from clframe.core.rng import clock
from clframe.errors import ConfigError


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


# -- the reservoir -------------------------------------------------------------


def test_inclusion_is_exactly_capacity_over_offers() -> None:
    """Example 6: M=2, N=5; all 3 x 4 x 5 draws, each an integer on 0..offered inclusive."""
    draws = [[Fraction(r, n + 1) for r in range(n + 1)] for n in range(2, 5)]
    kept: Counter[int] = Counter()
    for uniforms in itertools.product(*draws):
        slots = [reservoir_slot(n, 2, 0.0) for n in range(2)]
        assert slots == [0, 1]
        memory = {0: 0, 1: 1}
        for n, u in zip(range(2, 5), uniforms, strict=True):
            slot = reservoir_slot(n, 2, float(u) + 1e-9)
            if slot is not None:
                memory[slot] = n
        kept.update(memory.values())
    assert sum(kept.values()) == 2 * 60
    assert {s: Fraction(c, 60) for s, c in kept.items()} == {s: Fraction(2, 5) for s in range(5)}


def test_first_offers_fill_the_slots_in_order() -> None:
    memory = ReplayBuffer(2)
    offer(memory, 0, first=0, n=2)
    assert uids(memory) == [0, 1] and memory.offered == 2
    offer(memory, 1, first=2, n=3)
    assert len(memory) == 2 and memory.offered == 5


def test_the_draw_of_each_row_is_algorithm_r() -> None:
    """Two offers a batch, replayed by hand from the same uniforms."""
    memory, expected, offered = ReplayBuffer(3), [-1] * 3, 0
    for step in range(20):
        offer(memory, step, first=2 * step, n=2)
        clock.set(0, step)
        g = clock.draw("memory/add")
        for row, u in enumerate(torch.rand(2, 2, dtype=torch.float64, generator=g)[:, 0].tolist()):
            slot = reservoir_slot(offered, 3, u)
            if slot is not None:
                expected[slot] = 2 * step + row
            offered += 1
        assert uids(memory) == expected[: len(memory)]


def test_inclusion_in_a_long_stream_is_uniform() -> None:
    """400 streams of 100 samples into 10 slots: each sample stays in 40 of them, give or take 6."""
    kept: Counter[int] = Counter()
    for seed in range(400):
        memory = ReplayBuffer(10)
        for step in range(10):
            offer(memory, step, seed, first=10 * step, n=10)
        consistent(memory)
        assert len(set(uids(memory))) == 10
        kept.update(uids(memory))
    counts = torch.tensor([kept[s] for s in range(100)], dtype=torch.float64)
    assert counts.sum() == 4000
    chi_squared = ((counts - 40) ** 2 / (40 * 0.9)).sum().item()
    assert 50 < chi_squared < 160  # 99 degrees of freedom: 5 standard deviations either way
    assert abs(counts[:50].mean() - 40) < 3


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


# -- columns -------------------------------------------------------------------


def test_columns_keep_dtype_and_rows_stay_together() -> None:
    memory = ReplayBuffer(4)
    assert memory.sample(3) is None and len(memory) == 0 and memory.num_bytes == 0
    clock.set(0, 0)
    memory.add(
        x=torch.randint(0, 256, (9, 3, 2, 2), dtype=torch.uint8),
        flag=torch.tensor([True, False, True] * 3),
        half=torch.arange(9).half(),
        uid=torch.arange(9),
        logits=torch.arange(9.0)[:, None].repeat(1, 5).requires_grad_(),
    )
    drawn = memory.sample(4)
    assert drawn is not None
    dtypes = {k: v.dtype for k, v in drawn.items()}
    assert dtypes == {
        "x": torch.uint8,
        "flag": torch.bool,
        "half": torch.float16,
        "uid": torch.int64,
        "logits": torch.float32,
    }
    assert torch.equal(drawn["half"].long(), drawn["uid"])
    assert torch.equal(drawn["logits"][:, 0].long(), drawn["uid"])
    assert torch.equal(drawn["flag"], drawn["uid"] % 3 != 1)
    assert not drawn["logits"].requires_grad
    assert memory.num_bytes == 4 * (12 + 1 + 2 + 8 + 20)


def test_other_columns_than_before_are_refused() -> None:
    memory = ReplayBuffer(4)
    offer(memory, 0, first=0, n=2)
    with pytest.raises(AssertionError, match="logits"):
        memory.add(**rows(2, 2), logits=torch.zeros(2, 5))


def test_sample_draws_distinct_rows_of_what_is_there() -> None:
    memory = ReplayBuffer(8)
    offer(memory, 0, first=0, n=5)
    drawn = memory.sample(100)
    assert drawn is not None and sorted(drawn["uid"].tolist()) == list(range(5))
    large = ReplayBuffer(200)
    offer(large, 1, first=0, n=200)
    first, second = large.sample(30), large.sample(30)
    assert first is not None and second is not None
    assert len(set(first["uid"].tolist())) == 30
    assert first["uid"].tolist() != second["uid"].tolist()


def test_sample_is_uniform_and_weigh_biases_it() -> None:
    memory = ReplayBuffer(8)
    offer(memory, 0, first=0, n=8)

    def counts() -> Tensor:
        count: Counter[int] = Counter()
        for step in range(1, 801):
            clock.set(0, step)
            drawn = memory.sample(2)
            assert drawn is not None
            count.update(drawn["uid"].tolist())
        return torch.tensor([count[u] for u in range(8)])

    assert (counts() - 200).abs().max() < 65
    memory.weigh = lambda m: (m.column("uid") < 4).float() + 1e-9
    heavy = counts()
    assert heavy[4:].sum() == 0 and (heavy[:4] - 400).abs().max() < 85


@pytest.mark.parametrize("capacity", [0, -3])
def test_capacity_must_be_positive(capacity: int) -> None:
    with pytest.raises(ConfigError, match=f"capacity: {capacity} .*at least 1"):
        ReplayBuffer(capacity)


def test_unknown_policy() -> None:
    with pytest.raises(ConfigError, match=r"policy: 'ring' .*reservoir, class_balanced"):
        ReplayBuffer(4, policy="ring")


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


# -- resume --------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_saved_memory_has_the_same_future(policy: str, stop: int) -> None:
    def play(memory: ReplayBuffer, steps: range) -> list[Any]:
        seen: list[Any] = []
        for step in steps:
            clock.set(0, step)
            drawn = memory.sample(3)
            seen.append(None if drawn is None else {k: v.tolist() for k, v in drawn.items()})
            memory.add(**rows(4 * step, 4))
            if step == 9:
                memory.forget(uids=torch.tensor(uids(memory)[:2]))
        return seen

    whole = ReplayBuffer(9, policy=policy)
    play(whole, range(stop))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    expected = play(whole, range(stop, 20))
    file.seek(0)
    again = ReplayBuffer(9, policy=policy)
    saved = torch.load(file, weights_only=True)
    again.load_state_dict(saved)
    assert again.get_extra_state() == saved["_extra_state"]
    assert play(again, range(stop, 20)) == expected
    assert again.get_extra_state() == whole.get_extra_state()
    for name in whole.get_extra_state()["columns"]:
        assert torch.equal(again.column(name), whole.column(name))
    consistent(again)


def test_a_memory_of_another_size_is_refused() -> None:
    memory = ReplayBuffer(9)
    offer(memory, 0, first=0, n=4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ReplayBuffer(5).load_state_dict(memory.state_dict())


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
        sys.setprofile(count)
        memory.add(**batch)
        sys.setprofile(None)
        costs.append((calls, operations.elements))
    assert costs[0] == costs[1]
    assert 0 < costs[0][1] < 8 * 20
