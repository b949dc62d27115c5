"""The batched crop and flip against one image at a time, with the same draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clframe.core.augment import CropFlip, standard_augmentation
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
