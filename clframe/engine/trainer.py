"""The Lightning Trainer of a run, with everything off that costs time in the step."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
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


class ReusedTrainer:
    """The Trainer of a run: made once, and as good as new for each experience.

    Making one costs more than a short experience does. With several ranks it returns when all of
    them have met.
    """

    def __init__(self, cfg: RunConfig) -> None:
        many = cfg.world > 1
        strategy: Any = "auto"
        if many:
            strategy = Replicas(
                cluster_environment=_cluster(),
                timeout=timedelta(seconds=cfg.timeout),
                find_unused_parameters=True,
                broadcast_buffers=False,
                init_sync=False,  # ranks are equal by construction, which `agreement` confirms
            )
        self.trainer = Trainer(
            accelerator=cfg.accelerator,
            devices=cfg.devices,
            num_nodes=cfg.num_nodes,
            strategy=strategy,
            precision=PRECISIONS[cfg.precision],
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        if many:
            self.trainer.strategy.setup_environment()
        self._precision = self.trainer.precision_plugin.state_dict()

    def renewed(self, epochs: int) -> Trainer:
        """The Trainer, about to fit for `epochs` passes and knowing nothing of earlier fits."""
        trainer = self.trainer
        # Lightning counts epochs and batches over all fits in here
        trainer.fit_loop = type(trainer.fit_loop)(trainer, max_epochs=epochs)
        trainer.precision_plugin.load_state_dict(self._precision)  # the scale of half precision
        return trainer


def _cluster() -> ClusterEnvironment:
    """Who has started the ranks: torchrun, srun, or we ourselves, by LOCAL_RANK and the like."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_STEP_ID" in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()
