"""The network: normalising, fixed, growing and cosine heads, and guards that leave no trace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms

from clframe.core.augment import CropFlip
from clframe.core.backbones import BACKBONES
from clframe.core.net import CLOSED, CosineLinear, Net, evaluating, frozen_state
from clframe.core.rng import clock, shared_rng


def flat_net(**options: object) -> Net:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())
    return Net(backbone, 5, 4, **options)  # type: ignore[arg-type]


def test_normalise_is_to_tensor_and_normalize() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    mean, std = [0.49, 0.48, 0.44], [0.2, 0.25, 0.3]
    wanted = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(pixels)
    net = Net(nn.Flatten(), 90, 2, mean=mean, std=std)
    raw = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    torch.testing.assert_close(net.normalise(raw)[0], wanted)


def test_floats_and_flat_inputs() -> None:
    net = Net(nn.Flatten(), 12, 2)
    floats = torch.randn(3, 12)
    assert net.normalise(floats) is floats
    raw = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    torch.testing.assert_close(net.normalise(raw), torch.tensor([[0.0, 0.2, 1.0]]))


def test_forward_never_augments() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    plain = flat_net()
    augmenting = flat_net(augment=CropFlip(1, flip=True)).train()
    assert torch.equal(plain(x), augmenting(x))
    assert not torch.equal(augmenting.augment(x), x)


def test_growing_head_is_closed_then_equals_a_fixed_one() -> None:
    clock.set(0, 0)
    growing, fixed = flat_net(growing=True), flat_net()
    x = torch.randn(3, 12)
    assert torch.equal(growing(x), torch.full((3, 4), CLOSED))
    growing.grow([1, 3])
    fixed.load_state_dict(growing.state_dict() | {"opened": torch.ones(4, dtype=torch.bool)})
    assert torch.equal(growing(x)[:, [1, 3]], fixed(x)[:, [1, 3]])
    assert (growing(x)[:, [0, 2]] == CLOSED).all()
    loss = nn.functional.cross_entropy(growing(x), torch.tensor([1, 3, 1]))
    by_hand = nn.functional.cross_entropy(fixed(x)[:, [1, 3]], torch.tensor([0, 1, 0]))
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    gradient = growing.head.weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert (gradient[[0, 2]] == 0).all() and (gradient[[1, 3]] != 0).any()


def test_new_rows_depend_on_seed_and_class_only() -> None:
    rows = []
    for seed, order in ((0, [0, 2]), (0, [2, 0]), (1, [2])):
        clock.set(seed, 0)
        net = flat_net(growing=True)
        torch.rand(len(rows) + 1)
        net.grow(order)
        rows.append(net.head.state_dict()["weight"][2])
        assert rows[-1].abs().max() <= 5**-0.5
        assert not torch.equal(rows[-1], net.head.state_dict()["weight"][0])
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_growing_again_keeps_what_was_learned() -> None:
    net = flat_net(growing=True)
    net.grow([0])
    with torch.no_grad():
        net.head.state_dict()["weight"][0] = 7.0
    net.grow([0, 1])
    assert (net.head.state_dict()["weight"][0] == 7.0).all()
    assert net.opened.tolist() == [True, True, False, False]


def test_a_fixed_head_does_not_grow() -> None:
    net = flat_net()
    before = net.head.state_dict()["weight"].clone()
    net.grow([0, 1])
    assert torch.equal(before, net.head.state_dict()["weight"]) and net.opened.all()


def test_opened_classes_are_in_the_state() -> None:
    net, other = flat_net(growing=True), flat_net(growing=True)
    net.grow([2])
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 12)
    assert torch.equal(net(x), other(x))
    assert not {"gain", "shift"} & set(net.state_dict())


def test_cosine_head() -> None:
    """Example 4: (3, 4) against the rows (1, 0) and (0, 2); the guard adds to both norms."""
    head = CosineLinear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    logits = head(torch.tensor([[3.0, 4.0]]))[0].tolist()
    assert logits == pytest.approx([5.99993, 7.99994], abs=6e-6)
    exact = [30 / (5 + 1e-5) / (1 + 1e-5), 80 / (5 + 1e-5) / (2 + 1e-5)]
    assert logits == pytest.approx(exact, abs=1e-6)
    assert not math.isclose(logits[1], 8, abs_tol=3e-5)
    assert head(torch.zeros(1, 2)).isfinite().all()
    net = flat_net(head="cosine", growing=True)
    net.grow([0])
    assert isinstance(net.head, CosineLinear) and net(torch.randn(3, 12))[:, 0].abs().max() <= 10


def test_frozen_state_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    net.append(nn.BatchNorm2d(2, track_running_stats=False)).train()
    x = torch.randn(4, 3, 2, 2)
    clock.set(0, 0)
    shared_rng("augment")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    expected = torch.rand(3), torch.rand(3, generator=shared_rng("augment"))
    clock.set(0, 0)
    shared_rng("augment")
    with frozen_state(net):
        net(x)
        torch.rand(9)
        shared_rng("augment")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.rand(3), expected[0])
    assert torch.equal(torch.rand(3, generator=shared_rng("augment")), expected[1])


def test_frozen_state_restores_after_an_error() -> None:
    net = nn.BatchNorm1d(2).train()
    with pytest.raises(ZeroDivisionError), frozen_state(net):
        net(torch.randn(4, 2))
        raise ZeroDivisionError
    assert net.num_batches_tracked == 0 and (net.running_mean == 0).all()


def test_evaluating_restores_odd_modes() -> None:
    """A frozen batch norm inside a training net must not come back in train mode."""
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    net.train()
    net[1][1].eval()
    modes = [m.training for m in net.modules()]
    assert modes == [True, True, True, True, False]
    with pytest.raises(ZeroDivisionError), evaluating(net):
        assert not any(m.training for m in net.modules())
        raise ZeroDivisionError
    assert [m.training for m in net.modules()] == modes


def test_a_frozen_backbone_never_trains() -> None:
    """Not as it is made, either: Lightning leaves the modes as they come."""
    net = Net(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)), 4, 2, frozen=True)
    for _ in range(2):
        assert not any(m.training for m in net.backbone.modules()) and net.head.training
        net.train()
    assert [p is net.head.weight or p is net.head.bias for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("shape", "args", "cut", "width"),
    [
        ((1, 28, 28), {}, (16, 7, 7), 500),
        ((1, 8, 8), {}, (16, 2, 2), 500),
        ((3, 32, 32), {"blocks": [[64, 64], [64, 64]], "hidden": [1024]}, (64, 8, 8), 1024),
    ],
)
def test_vgg_pools_after_each_block(
    shape: tuple[int, ...], args: dict[str, Any], cut: tuple[int, ...], width: int
) -> None:
    backbone, features = BACKBONES["vgg"](shape, **args)
    x = torch.zeros(2, *shape)
    assert features == width and backbone(x).shape == (2, width)
    assert isinstance(backbone, nn.Sequential)
    flatten = [isinstance(m, nn.Flatten) for m in backbone].index(True)
    assert backbone[:flatten](x).shape[1:] == cut


def test_lenet_has_the_papers_sizes() -> None:
    backbone, width = BACKBONES["lenet"]((1, 28, 28))
    net = Net(backbone, width, 10)
    assert sum(p.numel() for p in net.parameters()) == 61_706
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    backbone, width = BACKBONES["lenet"]((3, 32, 36))
    assert Net(backbone, width, 10)(torch.zeros(2, 3, 32, 36)).shape == (2, 10)


def test_a_cosine_head_keeps_its_digits_in_half_precision() -> None:
    """Scores over a small temperature: 8 bits of them would be off by up to 0.04."""
    torch.manual_seed(0)
    head, x = CosineLinear(6, 4, scale=1 / 0.09), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(x)
    assert found.dtype == torch.float32 and torch.equal(found, head(x))
