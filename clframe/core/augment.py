"""Random views of a whole batch at once, on raw pixels; the draws are the same on every rank."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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
        top, left, mirror = _draws(x, 3, "augment").unbind(1)
        span = 2 * self.pad + 1
        rows = (top * span).long()[:, None] + torch.arange(height, device=x.device)
        cols = torch.arange(width, device=x.device).expand(n, width)
        if self.flip:
            cols = torch.where(mirror[:, None] < 0.5, cols.flip(1), cols)
        cols = (left * span).long()[:, None] + cols
        padded = F.pad(x, [self.pad] * 4)
        image = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[None, :, None, None]
        return padded[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


def _draws(x: Tensor, width: int, purpose: str) -> Tensor:
    """Uniform numbers [n, width] for the rows of `x`, of one draw for the global batch."""
    counts = dist.sizes(x)
    start = sum(counts[: dist.rank()])
    draws = torch.rand(sum(counts), width, generator=shared_rng(purpose))
    return draws[start : start + len(x)].to(x.device, non_blocking=True)


class ResizedCrop(nn.Module):
    """The second view of contrastive replay: crop, flip, jitter, grey (PCR; Lin et al., 2023).

    A crop of 0.2 to 1 of the area and of 3/4 to 4/3 in its sides' ratio, resized to the image's
    size; colour images are mirrored with p = 1/2, jittered in brightness, contrast, saturation
    (+-0.4 each) and hue (+-0.1) with p = 0.8, in an order drawn for the batch, and made grey with
    p = 0.2. Images of one channel keep their sides and have no colour: brightness and contrast
    remain. x: [n, C, H, W]; pixels (uint8) stay pixels; of floats, whose range nobody knows, the
    geometry alone changes. Inputs that are no images are their own view.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return x
        draws = _draws(x, 12, "augment/resized_crop").to(torch.get_default_dtype())
        if not len(x):  # another rank has rows
            return x
        pixels = x.dtype == torch.uint8
        out = _resized(x / 255 if pixels else x, draws[:, :6], flip=x.shape[1] == 3)
        if not pixels:
            return out.to(x.dtype)
        chosen, grey = draws[:, 6] < 0.8, draws[:, 7] < 0.2
        ways = len(_JITTER) if x.shape[1] == 3 else 2  # without colour, the first two
        order = torch.randperm(ways, generator=shared_rng("augment/jitter")).tolist()
        jittered = out
        for step in order:
            amount = (2 * draws[:, 8 + step] - 1).view(-1, 1, 1, 1)
            jittered = _JITTER[step](jittered, amount)
        out = torch.where(chosen.view(-1, 1, 1, 1), jittered, out)
        out = torch.where(grey.view(-1, 1, 1, 1), _grey(out), out)
        return out.mul(255).round_().to(torch.uint8)


def standard_augmentation(shape: tuple[int, ...]) -> nn.Module:
    """Crop for every image size (padding 1/8 of the height); flip for colour images only."""
    if len(shape) != 3:
        return nn.Identity()
    return CropFlip(max(1, shape[1] // 8), flip=shape[0] == 3)


def _resized(x: Tensor, draws: Tensor, *, flip: bool) -> Tensor:
    """A crop of each image, resized to the whole by bilinear interpolation."""
    n, _, height, width = x.shape
    area, ratio, top, left, mirror = draws[:, :5].unbind(1)
    ratio = torch.exp((2 * ratio - 1) * math.log(4 / 3))
    area = (0.2 + 0.8 * area) * height * width
    wide = (area * ratio).sqrt().clamp(1, width)
    high = (area / ratio).sqrt().clamp(1, height)
    theta = torch.zeros(n, 2, 3, device=x.device, dtype=draws.dtype)
    theta[:, 0, 0] = wide / width
    if flip:
        theta[:, 0, 0] *= torch.where(mirror < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = high / height
    theta[:, 0, 2] = (2 * left - 1) * (1 - wide / width)  # the centre; -1 and 1 are the borders
    theta[:, 1, 2] = (2 * top - 1) * (1 - high / height)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.to(grid), grid, padding_mode="border", align_corners=False)


def _grey(x: Tensor) -> Tensor:
    """Luma of each pixel (ITU-R BT.601), as many channels as before; [n, C, H, W]."""
    if x.shape[1] != 3:
        return x
    weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device, dtype=x.dtype)
    return (x * weights.view(3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def _blend(x: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """x + 0.4 amount (x - other), within [0, 1]."""
    return (x + 0.4 * amount * (x - other)).clamp(0, 1)


def _brightness(x: Tensor, amount: Tensor) -> Tensor:
    return _blend(x, torch.zeros_like(x), amount)


def _contrast(x: Tensor, amount: Tensor) -> Tensor:
    return _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), amount)


def _saturation(x: Tensor, amount: Tensor) -> Tensor:
    return _blend(x, _grey(x), amount)


def _hue(x: Tensor, amount: Tensor) -> Tensor:
    """Turn the hue of HSV by 0.1 `amount` of the circle."""
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    red, green, blue = x.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sector = torch.where(value == red, (green - blue) / safe, sector)
    turned = sector + 0.6 * amount.squeeze(1)
    channels = []
    for offset in (5.0, 3.0, 1.0):  # value - chroma * max(0, min(k, 4 - k, 1)), k = offset + hue
        k = (offset + turned) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


_JITTER = (_brightness, _contrast, _saturation, _hue)
