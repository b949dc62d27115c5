"""The replay memory: who stays, with what probability, what is drawn, and after a resume."""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clframe.core.buffer import ReplayBuffer, reservoir_slots
from clframe.core.rng import clock
from clframe.errors import ConfigError
from tests.unit.core.offers import consistent, offer, rows, uids

# -- the reservoir -------------------------------------------------------------


def test_inclusion_is_exactly_capacity_over_offers() -> None:
    """Example 6: M=2, N=5; all 3 x 4 x 5 draws, each an integer on 0..offered inclusive."""
    draws = [[Fraction(r, n + 1) for r in range(n + 1)] for n in range(2, 5)]
    kept: Counter[int] = Counter()
    for uniforms in itertools.product(*draws):
        u = np.array([0, 0, *uniforms], dtype=np.float64) + 1e-9
        slots = reservoir_slots(0, 0, 2, u).tolist()
        assert slots[:2] == [0, 1]
        memory = {slot: n for n, slot in enumerate(slots) if slot < 2}
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
            slot = offered if offered < 3 else math.floor(u * (offered + 1))
            if slot < 3:
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
    with pytest.raises(ConfigError, match=f"capacity: {capacity} is out of range; give 1 or more"):
        ReplayBuffer(capacity)


def test_unknown_policy() -> None:
    with pytest.raises(ConfigError, match=r"policy: 'ring' .*reservoir, class_balanced"):
        ReplayBuffer(4, policy="ring")


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
