"""scikit-learn's digits at 28x28 in file order: what the check of SHARP is defined on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from clframe.api import forked_rng

TRAIN = 1200  # the first rows; the others are for testing


def digits28() -> Any:
    """Five experiences of two classes, 01 to 89; bilinear, floats in [0, 1]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    x = F.interpolate(x, size=(28, 28), mode="bilinear")
    y = torch.from_numpy(digits.target)

    def part(rows: slice) -> TensorDataset:
        data = TensorDataset(x[rows], y[rows])
        data.targets = y[rows].tolist()  # type: ignore[attr-defined]
        return data

    with forked_rng():  # Avalanche seeds torch's global generator
        from avalanche.benchmarks import class_incremental_benchmark

        sets = {"train": part(slice(TRAIN)), "test": part(slice(TRAIN, None))}
        return class_incremental_benchmark(sets, num_experiences=5, class_order=list(range(10)))
