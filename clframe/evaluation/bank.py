"""The fixed evaluation subsets, resident on the device, and the rows that one evaluation reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clframe.core import dist
from clframe.core.experience import Experience, Samples
from clframe.core.rng import generator


def stratified(y: Tensor, size: int, g: torch.Generator) -> Tensor:
    """Indices of `size` samples, each class in its share of `y` (largest remainder).

    They are spread over the classes: the first n of them are stratified too, to within one sample.
    """
    classes, counts = y.unique(return_counts=True)
    exact = counts.double() * min(size / len(y), 1) if len(y) else counts.double()
    take = exact.floor().long()
    rest = (exact - take).argsort(descending=True, stable=True)[: min(size, len(y)) - take.sum()]
    take[rest] += 1
    picks, places = [], []
    for c, n in zip(classes.tolist(), take.tolist(), strict=True):
        rows = torch.nonzero(y == c).flatten()
        picks.append(rows[torch.randperm(len(rows), generator=g)[:n]])
        places.append((torch.arange(n) + 0.5) / max(n, 1))
    if not picks:
        return torch.empty(0, dtype=torch.long)
    return torch.cat(picks)[torch.cat(places).argsort(stable=True)]


class View(NamedTuple):
    """What one evaluation reads: n rows of this rank, experience by experience.

    x [n, ...] inputs or features; y, task, owner [n]; `owner` is the row's experience, counted in
    stream order. `totals` counts the rows of each experience over all ranks. `even`: every
    experience has as many rows here.
    """

    x: Tensor
    y: Tensor
    task: Tensor | None
    owner: Tensor
    totals: list[int]
    even: bool


class EvalBank:
    """Evaluation samples of the learnt experiences, concatenated in stream order.

    `subset` is the number of samples per experience (None: all), drawn once by (seed, experience),
    stratified over classes; `budget` (None: no limit) is shared evenly by the experiences seen so
    far, each keeping the first of its samples. Each rank holds every world-th sample of each
    experience. `normalise` is applied once, here.
    """

    def __init__(
        self,
        experiences: Sequence[Experience],
        *,
        num_classes: int,
        with_task: bool,
        subset: int | None,
        seed: int,
        device: torch.device,
        normalise: Callable[[Tensor], Tensor],
        channels_last: bool = False,
        budget: int | None = None,
    ) -> None:
        self.with_task, self.budget = with_task, budget
        self.totals: list[int] = []
        parts: list[Samples] = []
        for e in experiences:
            size = len(e.eval) if subset is None else min(subset, len(e.eval))
            index = stratified(e.eval.y, size, generator(seed, "subset", e.origin))
            self.totals.append(len(index))
            parts.append(Samples(*e.eval.take(index[dist.rank() :: dist.world()])))
        self.sizes = [len(p) for p in parts]
        self.ends = torch.tensor([0, *self.sizes]).cumsum(0).tolist()[1:]
        whole = Samples.cat(parts)
        self.x = torch.cat([normalise(x.to(device)) for x in whole.x.split(4096)])
        if channels_last and self.x.dim() == 4:
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.y, self.task = whole.y.to(device), whole.task.to(device)
        owner = torch.arange(len(parts)).repeat_interleave(torch.tensor(self.sizes))
        self.owner = owner.to(device)
        self.own = torch.full((len(parts), num_classes), -torch.inf, device=device)
        for i, e in enumerate(experiences):
            self.own[i, list(e.classes)] = 0.0

    def shares(self, upto: int, seen: int) -> list[int]:
        """How many samples of each experience are evaluated, over all ranks."""
        share = max(self.totals) if self.budget is None else self.budget // max(seen, 1)
        return [min(t, share) for t in self.totals[:upto]]

    def view(self, upto: int, seen: int, x: Tensor | None = None) -> View:
        """The rows of the first `upto` experiences once `seen` of them have been met.

        `x` stands in for the inputs of all rows: features, for those who keep them.
        """
        totals = self.shares(upto, seen)
        mine = [-(-(t - dist.rank()) // dist.world()) for t in totals]
        rows: slice | Tensor = slice(self.ends[upto - 1] if upto else 0)
        if mine != self.sizes[:upto]:
            starts = [e - s for e, s in zip(self.ends, self.sizes, strict=True)]
            pairs = zip(starts, mine, strict=False)
            rows = torch.cat([torch.arange(s, s + n) for s, n in pairs]).to(self.x.device)
        task = self.task[rows] if self.with_task else None
        even = len(set(mine)) == 1
        x = self.x if x is None else x
        return View(x[rows], self.y[rows], task, self.owner[rows], totals, even)
