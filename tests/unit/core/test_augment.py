"""The batched crop and flip against one image at a time, with the same draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from clframe.core.augment import (
    TRIES,
    CropFlip,
    ResizedCrop,
    _crop_sizes,
    standard_augmentation,
)
from clframe.core.rng import clock, generator


def one_by_one(x: Tensor, pad: int, flip: bool, draws: Tensor) -> Tensor:
    """Cut each image out of a black frame around it, mirror it, and say nothing clever."""
    out = torch.empty_like(x)
    _, channels, height, width = x.shape
    for i, (top, left, mirror) in enumerate(draws.tolist()):
        frame = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=x.dtype)
        frame[:, pad : pad + height, pad : pad + width] = x[i]
        r, c = int(top * (2 * pad + 1)), int(left * (2 * pad + 1))
        image = frame[:, r : r + height, c : c + width]
        out[i] = image.flip(2) if flip and mirror < 0.5 else image
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("pad", "shape"), [(1, (3, 8, 8)), (4, (3, 32, 32)), (2, (1, 5, 9))])
def test_equals_one_image_at_a_time(
    pad: int, shape: tuple[int, ...], flip: bool, dtype: torch.dtype
) -> None:
    x = torch.randint(1, 256, (40, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    clock.set(3, 11)
    out = CropFlip(pad, flip=flip)(x)
    draws = torch.rand(40, 3, generator=generator(3, "augment", "step", 11, 1))
    assert out.dtype == dtype
    assert torch.equal(out, one_by_one(x, pad, flip, draws))


def test_eval_mode_is_the_identity() -> None:
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert CropFlip(1, flip=True).eval()(x) is x


def test_every_shift_and_both_mirrors_come_up_equally_often() -> None:
    """A single bright pixel tells where its image went: 3 x 3 shifts, two mirrors."""
    clock.set(0, 0)
    x = torch.zeros(9000, 1, 5, 4, dtype=torch.uint8)
    x[:, 0, 2, 1] = 1
    out = CropFlip(1, flip=True)(x)
    where = torch.nonzero(out[:, 0])[:, 1:]
    assert len(where) == 9000 and out.sum() == 9000
    # rows 1..3; columns 0..2 as it is, 1..3 mirrored
    rows = torch.bincount(where[:, 0], minlength=5)
    assert rows[[0, 4]].sum() == 0 and (rows[1:4] - 3000).abs().max() < 300
    cols = torch.bincount(where[:, 1], minlength=4)
    assert (cols - torch.tensor([1500, 3000, 3000, 1500])).abs().max() < 300


def test_each_call_of_an_update_is_a_new_view() -> None:
    x = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    layer = CropFlip(1, flip=True)
    clock.set(0, 1)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    clock.set(0, 1)
    assert torch.equal(first, layer(x)) and torch.equal(second, layer(x))


def test_the_largest_draw_stays_inside() -> None:
    """A float just below 1 must not round up to a shift that does not exist."""
    largest = 1 - 2**-24
    for span in range(1, 130, 2):
        assert int(torch.tensor(largest, dtype=torch.float32) * span) == span - 1


def test_standard_augmentation_fits_the_input() -> None:
    assert isinstance(standard_augmentation((16,)), nn.Identity)
    for shape, pad, flip in (
        ((1, 8, 8), 1, False),
        ((3, 32, 32), 4, True),
        ((1, 28, 28), 3, False),
    ):
        layer = standard_augmentation(shape)
        assert isinstance(layer, CropFlip) and (layer.pad, layer.flip) == (pad, flip)


# -- the second view of contrastive replay ----------------------------------------


def with_torchvision(image: Tensor, draws: list[float], order: list[int]) -> Tensor:
    """One view by torchvision's own operations on one float image, from the same draws."""
    top, left, mirror, jitter, grey, *amounts = draws[:9]
    channels, height, width = image.shape
    wide, high = float(width), float(height)
    for area, ratio in reversed(list(zip(draws[9::2], draws[10::2], strict=True))):
        area = (0.2 + 0.8 * area) * height * width
        ratio = math.exp((2 * ratio - 1) * math.log(4 / 3))
        if math.sqrt(area * ratio) <= width and math.sqrt(area / ratio) <= height:
            wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)  # the first that fits
    top, left = top * (height - high), left * (width - wide)
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    ends = [[left + x * wide / width, top + y * high / height] for x, y in corners]
    frame = [[x + 2, y + 2] for x, y in corners]
    taken = [[x + 2, y + 2] for x, y in ends]  # within a border as bright as its neighbours
    way = tv.InterpolationMode.BILINEAR
    out = tv.perspective(tv.pad(image, [2], padding_mode="edge"), taken, frame, interpolation=way)
    out = out[:, 2:-2, 2:-2]
    out = out.flip(2) if channels == 3 and mirror < 0.5 else out
    if jitter < 0.8:
        for step in order:
            amount = 2 * amounts[step] - 1
            if step == 3:
                out = tv.adjust_hue(out, 0.1 * amount)
            else:
                change = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[step]
                out = change(out, 1 + 0.4 * amount)
    return tv.rgb_to_grayscale(out, 3) if channels == 3 and grey < 0.2 else out


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 9, 16), (1, 28, 28)])
def test_resized_crop_is_torchvisions(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    smooth = tv.resize(torch.rand(30, shape[0], 6, 6, generator=g), list(shape[1:]))
    x = smooth.mul(255).round().to(torch.uint8)
    clock.set(3, 11)
    out = ResizedCrop()(x)
    draws = torch.rand(30, 29, generator=generator(3, "augment/resized_crop", "step", 11, 1))
    ways = 4 if shape[0] == 3 else 2
    jitter = generator(3, "augment/jitter", "step", 11, 1)
    order = torch.randperm(ways, generator=jitter).tolist()
    assert out.dtype == torch.uint8 and out.shape == x.shape
    for image, row, found in zip(x, draws.tolist(), out, strict=True):
        expected = 255 * with_torchvision(image / 255, row, order)
        assert (expected - found).abs().max() <= 1.5, row  # rounding, and that of hues


def test_crops_are_distributed_as_torchvisions() -> None:
    """Areas and ratios of sides, against its own sampler; it rounds to whole pixels of 256."""
    shape = (1, 256, 256)
    torch.manual_seed(0)
    boxes = [
        RandomResizedCrop.get_params(torch.zeros(shape), [0.2, 1.0], [3 / 4, 4 / 3])
        for _ in range(6000)
    ]
    theirs = torch.tensor([[h / 256, w / 256] for _, _, h, w in boxes])
    wide, high = _crop_sizes(torch.rand(6000, TRIES, 2), 256, 256)
    quantiles = torch.linspace(0.02, 0.98, 13)
    for ours, other in ((wide * high, theirs.prod(1)), (wide / high, theirs[:, 1] / theirs[:, 0])):
        gap = (torch.quantile(ours, quantiles) - torch.quantile(other, quantiles)).abs()
        assert gap.max() < 0.025
    never = torch.ones(1, TRIES, 2)  # the whole area, 4 to 3: does not fit
    assert [side.item() for side in _crop_sizes(never, 256, 256)] == [1, 1]


def test_half_precision_does_not_move_the_crop() -> None:
    x = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    clock.set(0, 3)
    expected = ResizedCrop()(x)
    clock.set(0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ResizedCrop()(x), expected)


def test_resized_crop_draws_what_it_says() -> None:
    """Of a ramp: what was cropped, whether it was mirrored; of colours: how many went grey."""
    ramp = torch.arange(64).repeat(64, 1).expand(3, 64, 64).float() / 63
    x = ramp.expand(4000, 3, 64, 64)
    clock.set(0, 0)
    out = ResizedCrop()(x)  # floats: the geometry alone
    span = out[:, 0, 32, 63] - out[:, 0, 32, 0]
    assert (span < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert 0.38 < span.abs().min() < 0.45 and span.abs().max() == pytest.approx(1, abs=0.02)
    colour = torch.randint(0, 256, (4000, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator())
    grey = ResizedCrop()(colour)
    share = (grey[:, 0] == grey[:, 1]).all(2).all(1).float().mean().item()
    assert share == pytest.approx(0.2, abs=0.02)


def test_inputs_that_are_no_images_are_their_own_view() -> None:
    x = torch.randn(4, 7)
    assert ResizedCrop()(x) is x
    assert ResizedCrop()(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)
