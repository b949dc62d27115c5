"""Randomness as a function of (seed, purpose, step), so that no history has to be saved."""

from __future__ import annotations

import hashlib

import torch


def seed_of(seed: int, *purpose: object) -> int:
    """A 63-bit seed that depends on every argument and on nothing else."""
    text = "\x1f".join(map(str, (seed, *purpose))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator for one purpose; equal arguments give equal draws."""
    return torch.Generator().manual_seed(seed_of(seed, *purpose))


class Clock:
    """The run's seed and its current update; ranks agree on both, so they agree on every draw."""

    def __init__(self) -> None:
        self.seed = 0
        self.step = 0
        self.phase = "step"
        self._draws: dict[str, int] = {}

    def set(self, seed: int, step: int, phase: str = "step") -> None:
        """Enter update `step`: restarts every draw and reseeds torch's global generators.

        `phase` tells apart what happens at the same update outside of it: begin, end, forget.
        """
        self.seed, self.step, self.phase = seed, step, phase
        self._draws.clear()
        state = seed_of(seed, "torch", phase, step)
        torch.default_generator.manual_seed(state)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(state)

    def draws(self) -> dict[str, int]:
        """How often each purpose was drawn in this update; `rewind` goes back to it."""
        return self._draws.copy()

    def rewind(self, draws: dict[str, int]) -> None:
        """Forget the draws made since `draws` was taken: the next ones repeat them."""
        self._draws = draws.copy()

    def draw(self, purpose: str) -> torch.Generator:
        """A generator for the next draw of `purpose` in this update."""
        count = self._draws[purpose] = self._draws.get(purpose, 0) + 1
        return generator(self.seed, purpose, self.phase, self.step, count)


clock = Clock()


def shared_rng(purpose: str = "strategy") -> torch.Generator:
    """A CPU generator that is the same on every rank and new at each call within an update."""
    return clock.draw(purpose)
