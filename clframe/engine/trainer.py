"""A Lightning Trainer for one experience, with everything off that costs time in the step."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clframe.config.schema import RunConfig

PRECISIONS: dict[str, Any] = {
    "32": "32-true",
    "64": "64-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
}


class Replicas(DDPStrategy):
    """DDP that leaves a module without trainable parameters unwrapped, which torch would refuse."""

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        if any(p.requires_grad for p in model.parameters()):
            return super()._setup_model(model)
        return model  # type: ignore[return-value]


def make_trainer(cfg: RunConfig, epochs: int) -> Trainer:
    """A new Trainer for `epochs` passes; batch norm is synchronised where torch can (GPUs)."""
    many = cfg.devices > 1
    strategy: Any = "auto"
    if many:
        strategy = Replicas(
            cluster_environment=LightningEnvironment(),
            find_unused_parameters=True,
            broadcast_buffers=False,
        )
    return Trainer(
        accelerator=cfg.accelerator,
        devices=cfg.devices,
        strategy=strategy,
        precision=PRECISIONS[cfg.precision],
        sync_batchnorm=many and cfg.accelerator != "cpu" and torch.cuda.is_available(),
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
