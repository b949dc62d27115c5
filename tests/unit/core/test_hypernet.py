"""Generated weights: layout, initialisation, preservation and noise against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.backbones import mlp, resnet18_cifar, slim_resnet18
from clframe.core.hypernet import (
    GeneratedNet,
    Hypernet,
    TaskHypernet,
    apportion,
    kind_of,
    preservation,
    towards_noise,
)
from clframe.core.net import CosineLinear, Net, evaluating
from clframe.errors import ConfigError

SHAPES = {"a.weight": (6, 5), "a.bias": (6,), "n.weight": (6,), "n.bias": (6,), "b.weight": (4, 6)}


def small(seed: int = 0, *, chunks: int = 7, double: bool = True) -> Hypernet:
    rng = torch.Generator().manual_seed(seed)
    made = Hypernet(SHAPES, code_size=3, widths=(8, 16), chunks=chunks, rng=rng)
    return made.double() if double else made


def codes(num: int, size: int = 3) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def test_preservation_by_hand() -> None:
    then = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]])
    now = torch.tensor([[1.1, 1.8, 3.0], [0.5, -1.0, 1.0]])
    assert preservation(now, then).item() == pytest.approx(0.15, abs=1e-6)
    assert preservation(now, then, 10).item() == pytest.approx(0.03, abs=1e-6)
    assert preservation(now[:0], then[:0]).item() == 0


def test_nothing_pulls_at_the_snapshot_itself() -> None:
    tasks = TaskHypernet(small())
    tasks.codes.update({str(t): nn.Parameter(code) for t, code in enumerate(codes(4))})
    loss = preservation(tasks([2, 0, 3])[1:], tasks.then([2, 0, 3], 1))
    loss.backward()
    grads = [p.grad for p in tasks.net.parameters()]
    assert loss.item() == 0 and all(g is not None and not g.any() for g in grads)
    assert all(p.grad is None and not p.requires_grad for p in tasks.anchor.parameters())


def test_noise_by_hand() -> None:
    theta = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    loss = towards_noise(theta, torch.tensor([[1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(10.25) and theta.grad is not None
    assert theta.grad.tolist() == [1, -3, 5]


def test_fresh_noise_pulls_to_zero() -> None:
    theta, z = torch.randn(50).double(), torch.randn(20_000, 50).double()
    found = towards_noise(theta, z) - theta.square().sum()
    assert found.item() == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize(("gamma", "phi"), [(0.01, 0.997506), (0.1, 0.975610), (1.0, 0.8)])
def test_a_scalar_generator(gamma: float, phi: float) -> None:
    """theta = phi e; draws of mean 0. Task f has e = 1, task r has e = 2 and is protected."""
    weight = torch.tensor([1.0], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        kept = preservation(weight[None] * 2, torch.tensor([[2.0]]).double())
        noise = towards_noise(weight * 1, torch.tensor([[1.0], [-1.0]]).double())
        (kept + gamma * noise).backward()
        optimizer.step()
    assert weight.item() == pytest.approx(4 / (4 + gamma)) == pytest.approx(phi, abs=1e-6)


def test_orthogonal_codes_do_not_meet() -> None:
    phi = torch.tensor([0.3, -0.7], requires_grad=True)
    gone, kept = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    optimizer = torch.optim.SGD([phi], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        loss = preservation((phi @ kept)[None, None], torch.tensor([[-0.7]]))
        (loss + towards_noise((phi @ gone)[None], torch.tensor([[1.0], [-1.0]]))).backward()
        optimizer.step()
    assert phi[1].item() == torch.tensor(-0.7).item() and abs(phi[0].item()) < 1e-3


def test_shares_of_chunks() -> None:
    assert apportion([10_992_320, 172_032, 9_610], 200) == [195, 4, 1]
    assert apportion([96, 20], 8) == [6, 2] and apportion([5, 1, 1], 3) == [1, 1, 1]
    assert apportion([203_264, 266], 200) == [199, 1]
    for sizes in ([7, 7, 7], [1, 2, 1000], [50]):
        assert sum(apportion(sizes, 11)) == 11
    with pytest.raises(ConfigError, match=r"chunks: 2 are too few .* at least 3"):
        apportion([1, 1, 1], 2)


def shapes_of(net: tuple[nn.Module, int], classes: int) -> dict[str, tuple[int, ...]]:
    backbone, width = net
    return GeneratedNet(Net(backbone, width, classes), classes).shapes()


def test_the_generator_of_a_resnet18() -> None:
    with torch.device("meta"):
        shapes = shapes_of(resnet18_cifar((3, 32, 32)), 10)
        made = Hypernet(shapes)
    assert [(g.kind, g.chunks) for g in made.groups] == [
        *(("weights", 195), ("shortcuts", 4), ("rest", 1))
    ]
    assert made.size == sum(math.prod(s) for s in shapes.values()) == 11_173_962
    assert sum(p.numel() for p in made.weights()) == 56_084_285
    lengths = [group.length for group in made.groups]
    assert lengths == [56_371, 43_008, 9_610]


def test_kinds() -> None:
    assert kind_of("3.shortcut.0.weight", (8, 4, 1, 1)) == "shortcuts"
    assert kind_of("layer2.0.downsample.0.weight", (8, 4, 1, 1)) == "shortcuts"
    assert kind_of("3.shortcut.1.weight", (8,)) == "rest"
    assert kind_of("head.weight", (10, 4)) == "weights" and kind_of("head.bias", (10,)) == "rest"


def test_chunks_are_written_one_after_the_other() -> None:
    """By hand: each chunk code alone through the trunk and its head, ends cut off."""
    made, code = small(), codes(1)
    assert [(g.kind, g.size, g.chunks, g.length) for g in made.groups] == [
        *(("weights", 54, 5, 11), ("rest", 18, 2, 9))
    ]
    flat: list[Tensor] = []
    for group, head, first in zip(made.groups, made.heads, (0, 5), strict=True):
        outs = []
        for chunk in made.chunks[first : first + group.chunks]:
            x = torch.cat([code[0], chunk])
            for layer in made.trunk:
                x = F.relu(layer(x))
            outs.append(head(x))
        flat.append(torch.cat(outs)[: group.size])
    raw = torch.cat(flat)
    theta = made(code)[0]
    torch.testing.assert_close(theta, raw * made.factor + made.shift)
    tensors = made.unpack(theta)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == SHAPES
    torch.testing.assert_close(tensors["a.weight"], raw[:30].view(6, 5) / 5**0.5)
    torch.testing.assert_close(tensors["b.weight"], raw[30:54].view(4, 6) / 6**0.5)
    torch.testing.assert_close(tensors["a.bias"], raw[54:60])
    torch.testing.assert_close(tensors["n.weight"], 1 + raw[60:66])
    torch.testing.assert_close(tensors["n.bias"], raw[66:72])


def test_hyperfan_in() -> None:
    """Rows of heads have variance 1/H, weights 1/f and biases 1 over many codes and chunks."""
    shapes = {"a.weight": (40, 30), "b.weight": (25, 40), "a.bias": (400,), "n.weight": (400,)}
    rng = torch.Generator().manual_seed(0)
    made = Hypernet(shapes, widths=(128, 256, 512), chunks=200, rng=rng)
    heads = torch.cat([head.weight.flatten() for head in made.heads])
    assert heads.var().item() == pytest.approx(1 / 512, rel=0.03)
    assert heads.abs().max() <= math.sqrt(3 / 512)
    effective = (made.heads[0].weight.var() / 30).item()  # rows that feed a.weight
    assert effective == pytest.approx(1 / (512 * 30), rel=0.05)
    with torch.no_grad():
        tensors = made.unpack(made(torch.randn(300, 32, generator=rng)))
    variance = {n: (t - made.slots[n].shift).square().mean().item() for n, t in tensors.items()}
    assert variance["a.weight"] == pytest.approx(1 / 30, rel=0.25)
    assert variance["b.weight"] == pytest.approx(1 / 40, rel=0.25)
    assert variance["a.bias"] == pytest.approx(1, rel=0.25)
    assert variance["n.weight"] == pytest.approx(1, rel=0.25)
    assert not any(layer.bias.any() for layer in (*made.trunk, *made.heads))


def test_all_tasks_at_once_are_each_alone() -> None:
    made, some = small(), codes(5)
    torch.testing.assert_close(
        made(some), torch.cat([made(one[None]) for one in some]), rtol=1e-12, atol=1e-12
    )
    assert made(some).shape == (5, made.size)


def test_a_seed_is_a_generator_whatever_else_is_drawn() -> None:
    one = small(3)
    torch.rand(7)
    two = small(3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_half_precision_stays_outside() -> None:
    made = small(double=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(codes(2).float()).dtype == torch.float32


def test_more_chunks_than_numbers() -> None:
    made = small(chunks=200)
    assert made(codes(2)).shape == (2, 72)


def test_chunk_codes_are_no_weights_of_the_generator() -> None:
    made = small()
    names = {n for n, p in made.named_parameters() if any(p is w for w in made.weights())}
    assert names == {n for n, _ in made.named_parameters()} - {"chunks"}


def test_only_what_is_asked_for_learns() -> None:
    tasks = TaskHypernet(small())
    tasks.codes.update({str(t): nn.Parameter(code) for t, code in enumerate(codes(3))})
    tasks([0, 1, 2]).sum().backward()
    learns = tasks.only([tasks.codes["1"]])
    assert any(p is tasks.codes["1"] for p in learns)
    assert not any(p is q for p in learns for q in (tasks.codes["0"], tasks.net.chunks))
    tasks.zero_grad()
    tasks([0, 1, 2]).sum().backward()
    assert tasks.codes["0"].grad is None and tasks.net.chunks.grad is None
    assert tasks.codes["1"].grad is not None


def test_a_snapshot_stays_until_the_next() -> None:
    tasks = TaskHypernet(small())
    tasks.codes.update({str(t): nn.Parameter(code) for t, code in enumerate(codes(2))})
    before = tasks([0, 1]).detach()[1:]
    state = {k: v.clone() for k, v in tasks.state_dict().items()}
    with torch.no_grad():
        for p in tasks.net.parameters():
            p.add_(0.1)
    assert torch.equal(tasks.then([0, 1], 1), before)
    tasks.snapshot()
    assert torch.equal(tasks.then([0, 1], 1), tasks([0, 1])[1:])
    tasks.load_state_dict(state)
    assert torch.equal(tasks.then([0, 1], 1), before)


def test_running_with_a_nets_own_weights_is_the_net() -> None:
    torch.manual_seed(0)
    backbone, width = slim_resnet18((3, 8, 8), width=4)
    net = Net(backbone, width, 6, mean=[0.5] * 3, std=[0.2] * 3)
    made = GeneratedNet(net, 6)
    own = {f"backbone.{n}": p for n, p in net.backbone.named_parameters()}
    own |= {f"head.{n}": p for n, p in net.head.named_parameters()}
    assert {n: tuple(p.shape) for n, p in own.items()} == made.shapes()
    x = torch.randint(0, 256, (5, 3, 8, 8)).to(torch.uint8)
    with evaluating(net), evaluating(made):
        torch.testing.assert_close(made(own, x), net(x))
    blank = made.statistics()
    made(own, x)  # in train mode it sees what comes
    seen = made.statistics()
    assert not torch.equal(seen, blank) and seen.shape == (2 * 4 * (1 + 4 + 10 + 20 + 40) - 8 + 8,)
    with evaluating(net), evaluating(made):
        there = made(own, x)
        made.forget()
        assert torch.equal(made.statistics(), blank)
        torch.testing.assert_close(made(own, x, seen), there)
        assert not torch.allclose(made(own, x), there)
    assert torch.equal(made.statistics(), blank)


def test_the_batchs_statistics_in_eval_mode() -> None:
    net = Net(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 144, 3)
    made = GeneratedNet(net, 2, batch_statistics=True)
    weights = {name: torch.randn(shape) for name, shape in made.shapes().items()}
    x = torch.randn(6, 3, 8, 8)
    trained = made(weights, x)
    with evaluating(net), evaluating(made):
        torch.testing.assert_close(made(weights, x), trained)
    assert made.statistics().numel() == 0


def test_a_cosine_head_stays_one() -> None:
    backbone, width = mlp((4,), hidden=5)
    made = GeneratedNet(Net(backbone, width, 6, head="cosine"), 3)
    assert isinstance(made.head, CosineLinear) and made.shapes()["head.weight"] == (3, 5)
