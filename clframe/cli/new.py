"""A working plug-in file to start from."""

from __future__ import annotations

import keyword
from pathlib import Path
from string import Template

from clframe.errors import ClframeError
from clframe.registry import FOLDER, Kind, camel, plugin_names, shown

STRATEGY = Template(
    '''"""$title: one sentence on the idea, and the paper it comes from."""

from torch import Tensor

from clframe.api import Batch, ReplayBuffer, Strategy, cross_entropy, global_size


class $symbol(Strategy):
    """Cross-entropy on the batch and, `weight` times, on a draw from memory.

    capacity: samples in memory.
    weight: how much the memory counts.
    """

    def __init__(self, *, capacity: int = 200, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.memory = ReplayBuffer(capacity)  # a submodule: saved and resumed with the rest

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        terms = {"new": cross_entropy(self.net(self.augment(batch.x)), batch.y)}
        old = self.memory.sample(global_size(batch.y), batch.x.device)
        if old is not None:
            logits = self.net(self.augment(old["x"]))
            terms["memory"] = self.weight * cross_entropy(logits, old["y"])
        return terms

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(**batch._asdict())
'''
)
SCENARIO = Template(
    '''"""$title: one sentence on what changes from one experience to the next."""

import torch
from torch.utils.data import TensorDataset

from clframe.api import Scenario, forked_rng


def $name(
    *, classes: int = 6, experiences: int = 3, per_class: int = 64, seed: int = 0
) -> Scenario:
    """Clouds of points, a few new ones in each experience; replace them by your data.

    `seed` is the run's own unless it is set.
    """
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=g) * 2

    def part(n: int) -> TensorDataset:
        y = torch.arange(classes).repeat_interleave(n)
        data = TensorDataset(centres[y] + torch.randn(len(y), 16, generator=g), y)
        data.targets = y.tolist()  # Avalanche splits by these
        return data

    parts = {"train": part(per_class), "test": part(per_class // 2)}
    with forked_rng():  # Avalanche seeds torch's global generator
        from avalanche.benchmarks import class_incremental_benchmark

        return Scenario(
            class_incremental_benchmark(parts, num_experiences=experiences, seed=seed), "class"
        )
'''
)
TEMPLATE: dict[Kind, Template] = {"strategy": STRATEGY, "scenario": SCENARIO}


def write(kind: Kind, name: str) -> str:
    """Write ./strategies/NAME.py or ./scenarios/NAME.py; returns what to do next."""
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name[0] == "_":
        raise ClframeError(
            f"{name!r} cannot name a {kind}: a file and a class or function are called so.\n"
            "Use letters, digits and _, beginning with a letter, as in my_idea."
        )
    path = Path.cwd() / FOLDER[kind] / f"{name}.py"
    if path.exists() or name in plugin_names(kind):
        raise ClframeError(f"there is a {kind} named {name!r} already.\nChoose another name.")
    title = name.replace("_", " ").capitalize()
    path.parent.mkdir(exist_ok=True)
    path.write_text(TEMPLATE[kind].substitute(title=title, name=name, symbol=camel(name)))
    return f"wrote {shown(path)}\ncheck it with: clframe check {name}"
