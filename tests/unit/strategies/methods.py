"""Strategies to probe: nets that are easy to follow, batches that say what they hold, one step."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clframe.core.augment import CropFlip
from clframe.core.experience import Batch, Experience, Samples
from clframe.core.net import Net
from clframe.core.rng import clock
from clframe.core.strategy import Strategy, StreamInfo

FOLDER = Path(__file__).parents[3] / "strategies"


def identity_net(num_classes: int) -> Net:
    """Logits are the inputs; the weights are there to train all the same."""
    net = Net(nn.Flatten(), num_classes, num_classes)
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(torch.eye(num_classes))
        net.get_parameter("head.bias").zero_()
    return net


def batch_of(x: Sequence[Sequence[float]], y: Sequence[int], first: int = 0) -> Batch:
    """Rows `x` with labels `y` and uids counting from `first`."""
    labels = torch.tensor(y)
    uid = torch.arange(first, first + len(y))
    return Batch(torch.tensor(x, dtype=torch.float32), labels, torch.zeros_like(labels), uid)


def experience(index: int, classes: Sequence[int], train: Batch | None = None) -> Experience:
    """An experience to learn; without `train` it has no data."""
    samples = Samples(*(train or batch_of([[0.0]], [0], 0)))
    uids = tuple(samples.uid.tolist())
    return Experience(index, "learn", (0,), tuple(classes), samples, samples, index, (), uids)


def make(name: str, *base: Strategy, **options: Any) -> Any:
    """The strategy of `strategies/<name>.py`, around `base` if it is a wrapper."""
    spec = importlib.util.spec_from_file_location(f"unit_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (cls,) = [
        v
        for v in vars(module).values()
        if inspect.isclass(v) and issubclass(v, Strategy) and v.__module__ == module.__name__
    ]
    return cls(*base, **options)


def build(name: str, num_classes: int, net: Net | None = None, **options: Any) -> Any:
    """A strategy attached, in train mode; `wrapper+base` too. The clock stands at 0."""
    clock.set(0, 0)
    *wrappers, base = name.split("+")
    strategy = make(base, **options.pop("base", {}) if wrappers else options)
    for wrapper in reversed(wrappers):
        strategy = make(wrapper, strategy, **options)
    info = StreamInfo(num_classes, 2, "class", (num_classes,))
    strategy.attach(net or identity_net(num_classes), info)
    return strategy.train()


def small_net(*, growing: bool = False, dropout: bool = True) -> Net:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(3 * 4 * 4, 8), nn.ReLU()]
    backbone = nn.Sequential(*layers, *([nn.Dropout(0.5)] if dropout else []))
    return Net(backbone, 8, 4, growing=growing, augment=CropFlip(1, flip=True))


def images(step: int, classes: tuple[int, int] = (0, 1)) -> Batch:
    g = torch.Generator().manual_seed(step)
    x = torch.randint(0, 256, (6, 3, 4, 4), generator=g).to(torch.uint8)
    y = torch.tensor(classes)[torch.randint(0, 2, (6,), generator=g)]
    return Batch(x, y, torch.zeros_like(y), torch.arange(6 * step, 6 * step + 6))


def step(
    strategy: Strategy,
    optimizer: torch.optim.Optimizer,
    number: int,
    batch: Batch,
    seed: int = 0,
) -> None:
    clock.set(seed, number)
    strategy.before_step(batch)
    terms = strategy.loss(batch)
    if terms:
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        strategy.after_backward()
        optimizer.step()
        strategy.after_step(batch)
    strategy.after_batch(batch)


def stream() -> list[Experience]:
    """Two experiences of two classes each."""
    return [experience(i, [2 * i, 2 * i + 1], images(i, (2 * i, 2 * i + 1))) for i in (0, 1)]


def request(*gone: Experience, index: int = 2, handed: bool = True) -> Experience:
    """To forget whole experiences, whose data may be handed over."""
    every = Samples.cat([e.train for e in gone])
    uids, classes = every.uid.tolist(), tuple(c for e in gone for c in e.classes)
    nothing = Samples(*every.take(torch.empty(0, dtype=torch.long)))
    return dataclasses.replace(
        gone[0],
        index=index,
        kind="forget",
        classes=classes,
        train=every if handed else nothing,
        forgets=tuple(e.index for e in gone),
        uids=tuple(uids),
        times=(1,) * len(uids),
        emptied=classes,
    )


def trained(chain: str, **options: Any) -> Any:
    """A strategy that has learned `stream()`, and not badly."""
    strategy = build(chain, 4, small_net(dropout=False), **options)
    strategy.net.augment = nn.Identity()
    optimizer, number = torch.optim.SGD(strategy.parameters(), lr=0.2), 0
    for exp in stream():
        strategy.budget(exp)
        strategy.prepare(exp)
        strategy.begin(exp)
        for _ in range(40):
            number += 1
            step(strategy, optimizer, number, Batch(*exp.train.take(torch.arange(6))))
        strategy.end(exp)
    return strategy
