"""Random crop and flip of a whole batch in one gather, on raw pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clframe.core import dist
from clframe.core.rng import shared_rng


class CropFlip(nn.Module):
    """Shift each image by up to `pad` pixels (zeros come in) and mirror half of them.

    Active in train mode only. x: [n, C, H, W] of any dtype; the result has its shape and dtype.
    """

    def __init__(self, pad: int, *, flip: bool) -> None:
        super().__init__()
        self.pad, self.flip = pad, flip

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, channels, height, width = x.shape
        counts = dist.sizes(x)
        start = sum(counts[: dist.rank()])
        draws = torch.rand(sum(counts), 3, generator=shared_rng("augment"))
        top, left, mirror = draws[start : start + n].to(x.device, non_blocking=True).unbind(1)
        span = 2 * self.pad + 1
        rows = (top * span).long()[:, None] + torch.arange(height, device=x.device)
        cols = torch.arange(width, device=x.device).expand(n, width)
        if self.flip:
            cols = torch.where(mirror[:, None] < 0.5, cols.flip(1), cols)
        cols = (left * span).long()[:, None] + cols
        padded = nn.functional.pad(x, [self.pad] * 4)
        image = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[None, :, None, None]
        return padded[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


def standard_augmentation(shape: tuple[int, ...]) -> nn.Module:
    """Crop for every image size (padding 1/8 of the height); flip for colour images only."""
    if len(shape) != 3:
        return nn.Identity()
    return CropFlip(max(1, shape[1] // 8), flip=shape[0] == 3)
