"""Split Gaussian blobs: nothing to download, seconds on a CPU, hard enough to forget."""

from typing import Any

import torch
from torch.utils.data import TensorDataset

from clframe.api import forked_rng, partition, whole


def blobs(
    *, classes: int = 6, tasks: int = 3, per_class: int = 64, dim: int = 16, seed: int = 0
) -> Any:
    """`classes` clouds in `dim` dimensions, in `tasks` equal parts, in an order drawn from `seed`.

    Returns a bare Avalanche benchmark, as any scenario may.
    """
    whole("per_class", per_class, 2)
    whole("dim", dim, 1)
    sizes = partition(whole("classes", classes, 1), tasks, key="tasks")
    g = torch.Generator().manual_seed(whole("seed", seed, 0))
    centres = torch.randn(classes, dim, generator=g) * 2

    def part(n: int) -> TensorDataset:
        y = torch.arange(classes).repeat_interleave(n)
        data = TensorDataset(centres[y] + torch.randn(len(y), dim, generator=g), y)
        data.targets = y.tolist()  # type: ignore[attr-defined]
        return data

    with forked_rng():  # Avalanche seeds torch's global generator
        from avalanche.benchmarks import class_incremental_benchmark

        parts = {"train": part(per_class), "test": part(per_class // 2)}
        return class_incremental_benchmark(parts, num_classes_per_exp=list(sizes), seed=seed)
