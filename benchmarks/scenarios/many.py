"""A long stream of tiny experiences, to see what each costs beside its arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import TensorDataset

from clframe.api import forked_rng


def many(*, experiences: int = 100, size: int = 20, tests: int = 2) -> Any:
    """Two classes of noise, domain-incremental: `size` training and `tests` test samples each."""
    g = torch.Generator().manual_seed(0)

    def part(n: int) -> TensorDataset:
        data = TensorDataset(torch.randn(n, 16, generator=g), torch.arange(n) % 2)
        data.targets = data.tensors[1].tolist()  # type: ignore[attr-defined]
        return data

    with forked_rng():  # Avalanche seeds torch's global generator
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import as_classification_dataset

        sets = {"train": size, "test": tests}
        return benchmark_from_datasets(
            **{
                name: [as_classification_dataset(part(n)) for _ in range(experiences)]
                for name, n in sets.items()
            }
        )
