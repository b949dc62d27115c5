"""Randomness is a function of seed, purpose, phase and step, and of nothing before them."""

from __future__ import annotations

import torch
from torch import Tensor

from clframe.core.rng import clock, generator, seed_of, shared_rng


def draw(purpose: str = "strategy") -> Tensor:
    return torch.rand(4, generator=shared_rng(purpose))


def test_seed_depends_on_every_argument_and_fits_a_generator() -> None:
    seeds = [
        seed_of(0),
        seed_of(1),
        seed_of(0, "order"),
        seed_of(0, "order", 1),
        seed_of(0, "order", 1, 2),
        seed_of(0, "order", 12),
        seed_of(0, "order1", 2),
        seed_of(0, 1, "order"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    assert seed_of(0, "order", 1) == 3818025765772773313  # hashes of old runs must stay the same


def test_generator_repeats_itself() -> None:
    a, b = (torch.rand(3, generator=generator(3, "order", 7)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(3, generator=generator(4, "order", 7)))


def test_draws_are_new_within_an_update_and_repeat_across_runs() -> None:
    clock.set(1, 5)
    first, second, other = draw(), draw(), draw("augment")
    assert not torch.equal(first, second) and not torch.equal(first, other)
    torch.rand(7)  # what others draw does not matter
    clock.set(1, 5)
    assert torch.equal(other, draw("augment"))  # nor does the order of the purposes
    assert torch.equal(first, draw()) and torch.equal(second, draw())
    for seed, step, phase in ((1, 6, "step"), (2, 5, "step"), (1, 5, "end")):
        clock.set(seed, step, phase)
        assert not torch.equal(first, draw())


def test_set_reseeds_torch_as_a_function_of_seed_phase_and_step() -> None:
    clock.set(0, 3)
    a = torch.rand(3)
    torch.rand(100)
    clock.set(0, 3)
    assert torch.equal(a, torch.rand(3))
    for seed, step, phase in ((0, 4, "step"), (1, 3, "step"), (0, 3, "begin")):
        clock.set(seed, step, phase)
        assert not torch.equal(a, torch.rand(3))


def test_rewind_repeats_the_draws_since() -> None:
    clock.set(0, 0)
    draw()
    mark = clock.draws()
    a = draw()
    draw("augment")
    clock.rewind(mark)
    assert torch.equal(a, draw())
    clock.rewind(mark)  # the mark itself has not moved
    assert torch.equal(a, draw())
