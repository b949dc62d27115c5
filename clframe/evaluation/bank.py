"""The fixed evaluation subsets, resident on the device, counted in one fused forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from clframe.core import dist
from clframe.core.experience import Experience, Samples
from clframe.core.rng import generator
from clframe.core.strategy import Readout

MASKS = ("seen", "all", "task")


def stratified(y: Tensor, size: int, g: torch.Generator) -> Tensor:
    """Sorted indices of `size` samples, each class in its share of `y` (largest remainder)."""
    if size >= len(y):
        return torch.arange(len(y))
    classes, counts = y.unique(return_counts=True)
    exact = counts.double() * size / len(y)
    take = exact.floor().long()
    rest = (exact - take).argsort(descending=True, stable=True)[: size - int(take.sum())]
    take[rest] += 1
    picks = []
    for c, n in zip(classes.tolist(), take.tolist(), strict=True):
        rows = torch.nonzero(y == c).flatten()
        picks.append(rows[torch.randperm(len(rows), generator=g)[:n]])
    return torch.cat(picks).sort().values


class EvalBank:
    """Evaluation samples of the learnt experiences, concatenated in stream order.

    `subset` is the number of samples per experience (None: all), drawn once by (seed, experience),
    stratified over classes. Each rank holds every world-th sample of each experience; counts are of
    this rank until summed. `normalise` is applied once, here. `chunk` bounds one forward.
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
        chunk: int,
        channels_last: bool = False,
    ) -> None:
        self.chunk, self.with_task = chunk, with_task
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
        pieces = [normalise(x.to(device)) for x in whole.x.split(4096)]
        self.x = torch.cat(pieces)
        if channels_last and self.x.dim() == 4:
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.y, self.task = whole.y.to(device), whole.task.to(device)
        owner = torch.arange(len(parts)).repeat_interleave(torch.tensor(self.sizes))
        self.owner = owner.to(device)
        self.task_bias = torch.full((len(parts), num_classes), -torch.inf, device=device)
        for i, e in enumerate(experiences):
            self.task_bias[i, list(e.classes)] = 0.0
        self.uniform = len(set(self.sizes)) == 1

    def counts(self, readouts: Mapping[str, Readout], upto: int, seen: Tensor) -> Tensor:
        """Correct predictions on the first `upto` experiences, [len(readouts) * 3, upto] int64.

        `seen` [num_classes] is an additive mask: 0 for classes seen so far, -inf elsewhere. Rows
        are ordered readout by readout, within one by `MASKS`.
        """
        end = self.ends[upto - 1] if upto else 0
        with torch.inference_mode():
            hits = [self._hits(readout, end, seen) for readout in readouts.values()]
            correct = torch.cat(hits)
            if self.uniform:
                return correct.view(len(correct), upto, -1).sum(2)
            out = torch.zeros((len(correct), upto), dtype=torch.long, device=correct.device)
            return out.index_add_(1, self.owner[:end], correct.long())

    def _hits(self, readout: Readout, end: int, seen: Tensor) -> Tensor:
        pieces = []
        for start in range(0, end, self.chunk):
            rows = slice(start, min(start + self.chunk, end))
            logits = readout(self.x[rows], self.task[rows] if self.with_task else None)
            guesses = torch.stack(
                (
                    (logits + seen).argmax(1),
                    logits.argmax(1),
                    (logits + self.task_bias[self.owner[rows]]).argmax(1),
                )
            )
            pieces.append(guesses == self.y[rows])
        if not pieces:
            return torch.zeros((len(MASKS), 0), dtype=torch.bool, device=self.x.device)
        return torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
