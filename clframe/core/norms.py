"""Batch norm over the global batch, also on CPUs, where torch has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clframe.core import dist
from clframe.errors import ConfigError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WITH_ACTIVATION = "BatchNormAct2d"  # timm's


class SyncBatchNorm(_BatchNorm):
    """Batch norm (Ioffe and Szegedy, 2015) whose statistics in training are those of all ranks.

    A rank may have fewer rows than others, or none.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do: the layer that this one was has been tried."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.world() == 1:
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        rows = wide.new_full((1,), x.numel() // x.shape[1])
        sums = dist.total(torch.cat([wide.sum(dims), rows]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        squares = dist.total(centred.square().sum(dims))
        var = squares / count
        out = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        self._remember(mean.detach(), var.detach() * count / (count - 1).clamp(min=1))
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


class SyncBatchNormAct(SyncBatchNorm):
    """The same before the dropout and the activation that timm puts into its own class."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        for name in ("drop", "act"):
            out = self.get_submodule(name)(out)
        return out


def synchronise(module: nn.Module) -> None:
    """Let every batch norm in `module` work over all ranks; its parameters and names stay.

    Raises ConfigError for a kind of batch norm that is not known.
    """
    for norm in module.modules():
        if type(norm) in PLAIN:
            norm.__class__ = SyncBatchNorm
        elif type(norm).__name__ == WITH_ACTIVATION:
            norm.__class__ = SyncBatchNormAct
        elif isinstance(norm, _BatchNorm) and not isinstance(norm, SyncBatchNorm):
            raise ConfigError(
                f"net.batch_norm: {type(norm).__name__} cannot be synchronised; "
                "set net.batch_norm=local."
            )
