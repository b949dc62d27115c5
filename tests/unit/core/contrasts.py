"""A plane to contrast in: four directions, and losses with proxies as given."""

from __future__ import annotations

import torch
from torch import Tensor

from clframe.core.losses import class_counts, pair_contrast, proxy_contrast
from clframe.core.net import CosineLinear

AXES = [[1.0, 0.0], [0.0, 1.0]]
E, N, W, NW = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-0.6, 0.8]


def rows(values: list[list[float]]) -> Tensor:
    return torch.tensor(values)


def contrast(
    features: list[list[float]],
    y: list[int],
    tau: float,
    proxies: list[list[float]] = AXES,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The anchors' losses with proxies as given, through the head that the strategy uses."""
    head = CosineLinear(2, len(proxies), scale=1 / tau, guard=1e-6).to(dtype)
    with torch.no_grad():
        head.weight.copy_(rows(proxies))
    labels = torch.tensor(y)
    counts = class_counts(labels, len(proxies))
    return proxy_contrast(head(rows(features).to(dtype)), labels, counts)


def pairs(mode: str, features: Tensor, y: Tensor, proxies: Tensor, tau: float) -> float:
    everyone = torch.cat([features, proxies[y]])
    count = len(everyone) if mode == "all" else len(y)
    index = torch.arange(count)
    losses = pair_contrast(everyone[:count], y.repeat(2)[:count], index, everyone, y.repeat(2), tau)
    return losses.mean().item()
