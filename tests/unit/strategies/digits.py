"""Digits at 28x28 in file order, and a run of a strategy over them: the check that SHARP has."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from clframe.core.backbones import BACKBONES
from clframe.core.experience import Batch, Experience, Samples
from clframe.core.net import Net
from clframe.core.rng import clock, generator
from clframe.core.strategy import StreamInfo
from tests.unit.strategies.methods import make, step


def streams() -> list[Experience]:
    """01 to 89; rows 0 to 1199 are for training."""
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    x, y = F.interpolate(x, size=(28, 28), mode="bilinear"), torch.from_numpy(digits.target)
    data = Samples(x, y, torch.zeros_like(y), torch.arange(len(y)))
    made = []
    for index in range(5):
        rows = torch.nonzero(y // 2 == index).flatten()
        train, test = (Samples(*data.take(r)) for r in (rows[rows < 1200], rows[rows >= 1200]))
        classes = (2 * index, 2 * index + 1)
        uids = tuple(train.uid.tolist())
        made.append(Experience(index, "learn", (0,), classes, train, test, index, (), uids))
    return made


def final_accuracy(seed: int, **options: Any) -> float:
    """Of SHARP over all test samples, in percent; three phases of three epochs, batches of 64."""
    clock.set(seed, 0, "build")
    strategy = make("sharp", phases=3, q_min=60, **options)
    backbone, width = BACKBONES["vgg"]((1, 28, 28))
    strategy.attach(Net(backbone, width, 10), StreamInfo(10, 5, "class", (1, 28, 28)))
    experiences, number = streams(), 0
    for exp in experiences:
        optimizer = strategy.optimizer(exp)
        clock.set(seed, number, "begin")
        strategy.begin(exp)
        for epoch in range(9):
            clock.set(seed, number, "epoch")
            strategy.begin_epoch(exp, epoch)
            g = generator(seed, "order", exp.index, epoch)
            for rows in torch.randperm(len(exp.train), generator=g).split(64):
                number += 1
                step(strategy, optimizer, number, Batch(*exp.train.take(rows)), seed=seed)
        clock.set(seed, number, "end")
        strategy.end(exp)
    test = Samples.cat([e.eval for e in experiences])
    return 100 * (strategy.predict(test.x, None).argmax(1) == test.y).float().mean().item()
