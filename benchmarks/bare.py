"""The loop that a careful researcher writes by hand: resident tensors, one fused evaluation."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from work import EXPERIENCES, Work, given, now, peak_mb, report

from clframe.core.backbones import BACKBONES
from clframe.sources import load_images


class Reservoir:
    """Row numbers, each offered one kept with the same probability."""

    def __init__(self, capacity: int, rng: np.random.RandomState) -> None:
        self.rows, self.offered, self.rng = np.zeros(capacity, np.int64), 0, rng

    def add(self, rows: np.ndarray) -> None:
        at = np.arange(self.offered, self.offered + len(rows))
        slots = np.where(at < len(self.rows), at, self.rng.random_sample(len(at)) * (at + 1))
        slots = slots.astype(np.int64)
        kept = slots < len(self.rows)
        self.rows[slots[kept]] = rows[kept]
        self.offered += len(rows)

    def draw(self, size: int) -> np.ndarray:
        filled = min(self.offered, len(self.rows))
        return self.rows[self.rng.randint(filled, size=size if filled else 0)]


class Bare:
    """The loop, its data and its network."""

    def __init__(self, work: Work) -> None:
        self.work, self.rng = work, np.random.RandomState(work.seed)
        torch.manual_seed(work.seed)
        self.images = work.net != "mlp"
        self.chunk = 8192 if work.device == "cuda" else 250 if self.images else 1000
        self.net = make_net(work.net).to(work.device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=work.rate)
        self.memory = Reservoir(work.capacity, self.rng)
        self.history: list[Tensor] = []
        self._load()

    def _load(self) -> None:
        data, work = load_images("fashion_mnist"), self.work
        classes = [(2 * e, 2 * e + 1) for e in range(EXPERIENCES)]
        train = [np.flatnonzero(np.isin(data.train_y, c)) for c in classes]
        train = [self.rng.permutation(rows)[: work.iters * work.batch] for rows in train]
        test = [np.flatnonzero(np.isin(data.test_y, c))[: work.subset] for c in classes]
        self.sizes = [len(rows) for rows in train]

        def resident(x: Tensor, y: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            x = ((x[rows].float() / 255 - data.mean[0]) / data.std[0]).to(work.device)
            if self.images:
                x = x.contiguous(memory_format=torch.channels_last)
            return x, y[rows].to(work.device)

        self.x, self.y = resident(data.train_x, data.train_y, np.concatenate(train))
        self.test_x, self.test_y = resident(data.test_x, data.test_y, np.concatenate(test))

    def experience(self, e: int) -> None:
        """Train on one experience, evaluating all seen so far whenever it is due."""
        work, first, update = self.work, sum(self.sizes[:e]), 0
        for _ in range(work.epochs):
            order = first + self.rng.permutation(self.sizes[e])
            for new in order.reshape(-1, work.batch):
                self.step(new)
                if work.due(update):
                    self.evaluate(e + 1)
                update += 1

    def step(self, new: np.ndarray) -> None:
        rows = np.concatenate([new, self.memory.draw(len(new))])
        index = torch.from_numpy(rows).to(self.work.device)
        x, y = self.x.index_select(0, index), self.y.index_select(0, index)
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(x), y).backward()
        self.optimizer.step()
        self.memory.add(new)

    def evaluate(self, seen: int) -> None:
        end = seen * self.work.subset
        self.net.eval()
        guesses = logits(self.net, self.test_x[:end], self.chunk).argmax(1)
        self.history.append((guesses == self.test_y[:end]).view(seen, -1).sum(1))
        self.net.train()


def make_net(name: str) -> nn.Module:
    """The network with its classifier, channels last where it has channels."""
    backbone, width = BACKBONES[name]((1, 28, 28))
    net = nn.Sequential(backbone, nn.Linear(width, 10))
    return net.to(memory_format=torch.channels_last) if name != "mlp" else net  # type: ignore[call-overload]


def logits(net: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """What `net` makes of `x`, worked out `chunk` samples at a time."""
    with torch.inference_mode():
        return torch.cat([net(part) for part in x.split(chunk)])


def main() -> None:
    work = given()
    torch.set_num_threads(1)
    bare, marks, began = Bare(work), [], time.time()
    for e in range(EXPERIENCES):
        begin, wall = now(work.device), time.time()
        bare.experience(e)
        seconds = now(work.device) - begin
        marks.append({"seconds": seconds, "wall": time.time() - wall})
    final = (bare.history[-1] / work.subset).tolist() if bare.history else None
    span = {"began": began, "ended": time.time()}
    report("bare", work, marks, peak_mb=peak_mb(), final=final, **span)


if __name__ == "__main__":
    main()
