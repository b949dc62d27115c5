"""Optimizers by name, and learning-rate schedules as pure functions of the update."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from clframe.config.schema import Optim as OptimConfig


def build_optimizer(cfg: OptimConfig, params: Iterable[nn.Parameter]) -> Optimizer | None:
    """The configured optimizer (one kernel) over `params`; None when there is nothing to train."""
    wanted = list(params)
    if not wanted:
        return None
    if cfg.name == "adamw":
        return torch.optim.AdamW(wanted, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True)
    return torch.optim.SGD(
        wanted,
        lr=cfg.lr,
        momentum=cfg.momentum,
        weight_decay=cfg.weight_decay,
        nesterov=cfg.nesterov,
        fused=True,
    )


class Schedule:
    """Factor on the learning rate at the j-th of n updates (from 1) of an experience.

    `warmup` updates rise linearly; then none: 1; linear: down to 0; cosine: half a cosine to 0;
    step: times `gamma` at each fraction of the experience in `milestones`. A function of (j, n)
    alone, so there is no state to save.
    """

    def __init__(self, cfg: OptimConfig) -> None:
        self.cfg = cfg

    def __call__(self, j: int, n: int) -> float:
        cfg = self.cfg
        if j <= cfg.warmup:
            return j / (cfg.warmup + 1)
        done = (j - 1) / n
        if cfg.schedule == "step":
            return float(cfg.gamma ** sum(done >= m for m in cfg.milestones))
        if cfg.schedule == "linear":
            return 1 - done
        if cfg.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1.0
