"""Random views of a whole batch at once, on raw pixels; the draws are the same on every rank."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core import dist
from clframe.core.rng import shared_rng

TRIES = 10  # crops drawn for each image before it is taken whole


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

    A crop of 0.2 to 1 of the area and of 3/4 to 4/3 in its sides' ratio, drawn anew where it does
    not fit (the whole image after 10 tries), resized to the image's size. Colour images are
    mirrored with p = 1/2, jittered in brightness, contrast, saturation (+-0.4 each) and hue (+-0.1)
    with p = 0.8, in an order drawn for the batch, and made grey with p = 0.2. Images of one channel
    keep their sides and have no colour: brightness and contrast remain.

    x: [n, C, H, W]; pixels (uint8) stay pixels; of floats, whose range nobody knows, the geometry
    alone changes. Inputs that are no images are their own view.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return x
        draws = _draws(x, 9 + 2 * TRIES, "augment/resized_crop").to(torch.get_default_dtype())
        if not len(x):  # another rank has rows
            return x
        with torch.autocast(x.device.type, enabled=False):  # coordinates need all their digits
            return self._view(x, draws)

    def _view(self, x: Tensor, draws: Tensor) -> Tensor:
        pixels = x.dtype == torch.uint8
        tries = draws[:, 9:].unflatten(1, (TRIES, 2))
        out = _resized(x / 255 if pixels else x, tries, draws[:, :3], flip=x.shape[1] == 3)
        if not pixels:
            return out.to(x.dtype)
        chosen, grey = draws[:, 3] < 0.8, draws[:, 4] < 0.2
        ways = len(_JITTER) if x.shape[1] == 3 else 2  # without colour, the first two
        order = torch.randperm(ways, generator=shared_rng("augment/jitter")).tolist()
        jittered = out
        for step in order:
            amount = (2 * draws[:, 5 + step] - 1).view(-1, 1, 1, 1)
            jittered = _JITTER[step](jittered, amount)
        out = torch.where(chosen.view(-1, 1, 1, 1), jittered, out)
        out = torch.where(grey.view(-1, 1, 1, 1), _grey(out), out)
        return out.mul(255).round_().to(torch.uint8)


def standard_augmentation(shape: tuple[int, ...]) -> nn.Module:
    """Crop for every image size (padding 1/8 of the height); flip for colour images only."""
    if len(shape) != 3:
        return nn.Identity()
    return CropFlip(max(1, shape[1] // 8), flip=shape[0] == 3)


def _crop_sizes(tries: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Sides of the first crop that fits, in shares of the image's, from draws [n, tries, 2]."""
    area, ratio = tries.unbind(2)
    area, ratio = 0.2 + 0.8 * area, torch.exp((2 * ratio - 1) * math.log(4 / 3))
    wide, high = (area * ratio * height / width).sqrt(), (area / ratio * width / height).sqrt()
    fits = (wide <= 1) & (high <= 1)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    none = ~fits.gather(1, first)
    wide, high = (side.gather(1, first).masked_fill(none, 1.0).squeeze(1) for side in (wide, high))
    return wide, high


def _resized(x: Tensor, tries: Tensor, place: Tensor, *, flip: bool) -> Tensor:
    """A crop of each image, resized to the whole by bilinear interpolation."""
    n, _, height, width = x.shape
    wide, high = _crop_sizes(tries, height, width)
    top, left, mirror = place.unbind(1)
    theta = torch.zeros(n, 2, 3, device=x.device, dtype=place.dtype)
    theta[:, 0, 0] = wide * torch.where(mirror < 0.5, -1.0, 1.0) if flip else wide
    theta[:, 1, 1] = high
    theta[:, 0, 2] = (2 * left - 1) * (1 - wide)  # the centre; -1 and 1 are the borders
    theta[:, 1, 2] = (2 * top - 1) * (1 - high)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.to(grid), grid, padding_mode="border", align_corners=False)


def _grey(x: Tensor) -> Tensor:
    """Luma of each pixel (ITU-R BT.601), as many channels as before; [n, C, H, W]."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.split(1, 1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).expand_as(x)


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
