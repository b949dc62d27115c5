"""Counts under the three masks, by hand, whatever the chunk and however uneven the experiences."""

from __future__ import annotations

import pytest
import torch

from clframe.core.experience import Experience, Samples
from clframe.evaluation.bank import EvalBank, stratified

# a sample is its own logits: the best class is 2, then the second best, and so on
LOGITS = {0: [3.0, 1.0, 9.0, 0.0], 1: [5.0, 2.0, 1.0, 0.0], 2: [7.0, 0.0, 6.0, 1.0]}


def experience(index: int, classes: tuple[int, ...], rows: list[tuple[int, int]]) -> Experience:
    x = torch.tensor([LOGITS[kind] for kind, _ in rows])
    y = torch.tensor([label for _, label in rows])
    s = Samples(x, y, torch.zeros_like(y), torch.arange(len(y)))
    return Experience(index, "learn", (index,), classes, s, s, origin=index)


FIRST = experience(0, (0, 1), [(0, 0), (1, 0), (1, 1)])
SECOND = experience(1, (2, 3), [(0, 2), (2, 2)])


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_masks(chunk: int) -> None:
    bank = EvalBank(
        [FIRST, SECOND],
        num_classes=4,
        with_task=False,
        subset=None,
        seed=0,
        device=torch.device("cpu"),
        normalise=lambda x: x,
        chunk=chunk,
    )
    seen = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])  # only the first has been met
    counts = bank.counts({"net": lambda x, task: x}, 2, seen).tolist()
    assert counts == [
        [2, 0],  # seen: (0,0) and (1,0) are right; the classes of the second cannot be named
        [1, 1],  # all: (0,0) goes to class 2, and (2,2) to class 0
        [2, 2],  # task: each among its own classes
    ]
    assert bank.counts({"net": lambda x, task: x}, 1, seen).tolist() == [[2], [1], [2]]
    assert bank.totals == [3, 2]


def test_a_subset_is_stratified() -> None:
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    index = stratified(y, 10, torch.Generator().manual_seed(0))
    assert y[index].bincount().tolist() == [6, 3, 1]
    assert torch.equal(stratified(y, 1000, torch.Generator()), torch.arange(100))
