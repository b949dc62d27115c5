"""Counts under the three masks, by hand, whatever the chunk and however uneven the experiences."""

from __future__ import annotations

import pytest
import torch

from clframe.core.experience import Experience, Samples
from clframe.evaluation.bank import EvalBank, stratified
from clframe.evaluation.counting import count

# a sample is its own logits: the best class is 2, then the second best, and so on
LOGITS = {0: [3.0, 1.0, 9.0, 0.0], 1: [5.0, 2.0, 1.0, 0.0], 2: [7.0, 0.0, 6.0, 1.0]}


def experience(index: int, classes: tuple[int, ...], rows: list[tuple[int, int]]) -> Experience:
    x = torch.tensor([LOGITS[kind] for kind, _ in rows])
    y = torch.tensor([label for _, label in rows])
    s = Samples(x, y, torch.zeros_like(y), torch.arange(len(y)))
    return Experience(index, "learn", (index,), classes, s, s, origin=index)


FIRST = experience(0, (0, 1), [(0, 0), (1, 0), (1, 1)])
SECOND = experience(1, (2, 3), [(0, 2), (2, 2)])


def bank_of(*experiences: Experience, budget: int | None = None) -> EvalBank:
    return EvalBank(
        experiences,
        num_classes=4,
        with_task=False,
        subset=None,
        seed=0,
        device=torch.device("cpu"),
        normalise=lambda x: x,
        budget=budget,
    )


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_masks(chunk: int) -> None:
    bank = bank_of(FIRST, SECOND)
    seen = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])  # only the first has been met

    def counts(upto: int) -> list[list[int]]:
        readouts = {"net": lambda x, task: x}
        view = bank.view(upto, 1)
        return count(view, readouts, seen, bank.own, chunk=chunk).tolist()  # type: ignore[no-any-return]

    assert counts(2) == [
        [2, 0],  # seen: (0,0) and (1,0) are right; the classes of the second cannot be named
        [1, 1],  # all: (0,0) goes to class 2, and (2,2) to class 0
        [2, 2],  # task: each among its own classes
    ]
    assert counts(1) == [[2], [1], [2]]
    assert bank.totals == [3, 2]


def many(index: int, classes: tuple[int, ...], counts: list[int]) -> Experience:
    rows = [(0, label) for label, n in zip(classes, counts, strict=True) for _ in range(n)]
    return experience(index, classes, rows)


def test_a_budget_is_shared_by_the_experiences_met() -> None:
    bank = bank_of(many(0, (0, 1), [30, 10]), many(1, (2, 3), [20, 20]), budget=16)
    first = bank.view(1, 1)
    assert first.totals == [16] and first.y.bincount().tolist() == [12, 4]
    both = bank.view(2, 2)
    assert both.totals == [8, 8] and both.owner.bincount().tolist() == [8, 8]
    assert both.y.bincount().tolist() == [6, 2, 4, 4]
    assert torch.equal(both.x[:8], first.x[:8])  # a part of what was looked at before
    assert bank.view(2, 1).totals == [16, 16]  # those to come are not met, and cost extra


def test_a_subset_is_stratified() -> None:
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    index = stratified(y, 10, torch.Generator().manual_seed(0))
    assert y[index].bincount().tolist() == [6, 3, 1]
    for n in range(11):  # so is every beginning of it, to within a sample
        share = y[index[:n]].bincount(minlength=3)
        assert (share - torch.tensor([0.6, 0.3, 0.1]) * n).abs().max() <= 1
    whole = stratified(y, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(whole.sort().values, torch.arange(100))
