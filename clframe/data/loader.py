"""The batches of one experience: resident tensors, in an order fixed by the seed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clframe.core import dist
from clframe.core.experience import Batch, Samples
from clframe.core.rng import generator

BLOCK = 64  # batches handed over together, each of them gathered when it is asked for


def num_batches(num_samples: int, size: int) -> int:
    """Batches in a whole epoch; a single sample left over joins the last (batch norm)."""
    whole, rest = divmod(num_samples, size)
    return whole + (rest > (1 if whole else 0))


class ExperienceLoader:
    """Iterating once is one epoch, in blocks of batches; each iteration is the next epoch.

    `size` is the global batch; every rank gets its share of the same batch. The order is a function
    of (seed, experience, epoch) alone, so a run may start at any `epoch` and `batch`.
    """

    def __init__(
        self, samples: Samples, size: int, *, seed: int, key: int, epoch: int = 0, batch: int = 0
    ) -> None:
        self.samples, self.size, self.seed, self.key = samples, size, seed, key
        self.epoch, self.batch = epoch, batch

    @property
    def num_batches(self) -> int:
        return num_batches(len(self.samples), self.size)

    def __len__(self) -> int:
        return -(-self.num_batches // BLOCK)

    def rows(self, batch: int) -> int:
        """Samples in a batch, over all ranks."""
        last = batch == self.num_batches - 1
        return len(self.samples) - batch * self.size if last else self.size

    def order(self, epoch: int) -> Tensor:
        """The permutation of the samples in `epoch`, on the device of the data."""
        g = generator(self.seed, "order", self.key, epoch)
        return torch.randperm(len(self.samples), generator=g).to(self.samples.y.device)

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        epoch, first = self.epoch, self.batch
        self.epoch, self.batch = epoch + 1, 0
        order = self.order(epoch)
        for start in range(first, self.num_batches, BLOCK):
            yield self._block(order, range(start, min(start + BLOCK, self.num_batches)))

    def _block(self, order: Tensor, batches: range) -> Iterator[Batch]:
        for b in batches:
            rows = order[b * self.size : b * self.size + self.rows(b)]
            yield self.samples.take(rows[dist.part(len(rows))])


class ForgetLoader(ExperienceLoader):
    """`steps` batches of a forget request, epoch after epoch; empty ones where there is no data."""

    def __init__(self, samples: Samples, size: int, steps: int, **where: int) -> None:
        super().__init__(samples, size, **where)
        self.steps = steps

    @property
    def num_batches(self) -> int:
        return self.steps

    @property
    def _per_epoch(self) -> int:
        return max(1, num_batches(len(self.samples), self.size))

    def rows(self, batch: int) -> int:
        place = batch % self._per_epoch
        last = place == self._per_epoch - 1
        return len(self.samples) - place * self.size if last else self.size

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        yield self._steps()

    def _steps(self) -> Iterator[Batch]:
        for step in range(self.batch, self.steps):
            epoch, place = divmod(step, self._per_epoch)
            if place == 0 or step == self.batch:
                order = self.order(epoch)
            rows = order[place * self.size : place * self.size + self.rows(step)]
            yield self.samples.take(rows[dist.part(len(rows))])
