"""EWC against Fisher matrices and penalties worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core import gradients
from clframe.core.experience import Batch, Samples
from clframe.core.net import Net
from clframe.core.rng import clock
from clframe.errors import ConfigError
from tests.unit.strategies.methods import batch_of, build, experience

LN3 = math.log(3)


def logistic() -> Net:
    """Logits (0, x ln 3) of a number x: p(1|x=1) = 3/4, p(1|x=-1) = 1/4, p(1|x=2) = 9/10."""
    net = Net(nn.Flatten(), 1, 2)
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(torch.tensor([[0.0], [LN3]]))
        net.get_parameter("head.bias").zero_()
    return net


def fisher(batch: Batch, **options: Any) -> list[list[float]]:
    strategy = build("ewc", 2, logistic(), **options)
    clock.set(0, 1, "end")
    squares = strategy.estimate(Samples(*batch))
    return [t.flatten().tolist() for t in squares.values()]


# d log p(y|x) / d w_1 = (1[y=1] - p) x, and / d b_1 = 1[y=1] - p; for w_0, b_0 the negative of it.
@pytest.mark.parametrize(
    ("x", "y", "weight", "bias"),
    [
        ([[1.0]], [1], 1 / 16, 1 / 16),  # (1 - 3/4)^2
        ([[1.0]], [0], 9 / 16, 9 / 16),  # (3/4)^2
        ([[2.0]], [0], 4 * 81 / 100, 81 / 100),  # (9/10)^2 x^2
        # three right for one wrong is the model's own mixture: p (1 - p) x^2 = 3/16
        ([[1.0]] * 4, [1, 1, 1, 0], 3 / 16, 3 / 16),
        # the square of each gradient, not of their mean: (1/16 + 9/16) / 2; the mean is 1/4
        ([[1.0], [1.0]], [1, 0], 5 / 16, 5 / 16),
        ([[1.0], [2.0]], [1, 0], (1 / 16 + 4 * 81 / 100) / 2, (1 / 16 + 81 / 100) / 2),
    ],
)
def test_empirical_fisher_of_logistic_regression(
    x: list[list[float]], y: list[int], weight: float, bias: float
) -> None:
    got = fisher(batch_of(x, y))
    assert got[0] == pytest.approx([weight] * 2, rel=1e-5)
    assert got[1] == pytest.approx([bias] * 2, rel=1e-5)


@pytest.mark.parametrize(("x", "p"), [(1.0, 3 / 4), (2.0, 9 / 10)])
def test_sampled_fisher_is_p_one_minus_p_x_squared(x: float, p: float) -> None:
    """Whatever the labels say. 8,000 samples: standard error of the bias entry below 0.003."""
    got = fisher(batch_of([[x]] * 8000, [0] * 8000), fisher="sampled", fisher_samples=None)
    assert got[1] == pytest.approx([p * (1 - p)] * 2, abs=0.012)
    assert got[0] == pytest.approx([p * (1 - p) * x * x] * 2, abs=0.012 * x * x)


def convolutional() -> Net:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    net = Net(nn.Sequential(*layers), 2 * 4, 3, mean=[0.5], std=[0.25])
    net.train()(torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8))  # statistics of its own
    return net


def pixels(n: int) -> Samples:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 1, 4, 4), generator=g).to(torch.uint8)
    y = torch.randint(0, 3, (n,), generator=g)
    return Samples(x, y, torch.zeros_like(y), torch.arange(n))


def one_by_one(net: Net, data: Samples) -> list[Tensor]:
    net.eval()
    totals = [torch.zeros_like(p) for p in net.parameters()]
    for x, y in zip(data.x, data.y, strict=True):
        net.zero_grad()
        F.log_softmax(net(x[None]), 1)[0, y].backward()
        for total, p in zip(totals, net.parameters(), strict=True):
            assert p.grad is not None
            total += p.grad.square() / len(data)
    return totals


@pytest.mark.parametrize("room", [1, 200, 2**24])
def test_fisher_equals_a_loop_over_samples(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batch norm, dropout, uint8 pixels, and chunks of one, of a few and of all samples."""
    strategy = build("ewc", 3, convolutional(), fisher_samples=None)
    monkeypatch.setitem(gradients.ROOM, "cpu", room)
    got = strategy.estimate(pixels(10))
    for a, b in zip(got.values(), one_by_one(convolutional(), pixels(10)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_fisher_samples_are_distinct_ones_of_the_experience() -> None:
    """Half of the samples, of which each has its own square: the mean is that of some subset."""
    x = [[float(k)] for k in range(1, 5)]
    each = [fisher(batch_of([row], [0]))[1][0] for row in x]
    got = fisher(batch_of(x, [0] * 4), fisher_samples=2)[1][0]
    means = [(each[i] + each[j]) / 2 for i in range(4) for j in range(i)]
    assert any(got == pytest.approx(m, rel=1e-5) for m in means)
    everything = sum(each) / 4
    for samples in (4, 100, None):
        all_of_them = fisher(batch_of(x, [0] * 4), fisher_samples=samples)[1][0]
        assert all_of_them == pytest.approx(everything, rel=1e-5)


def test_end_leaves_no_trace_and_changes_no_prediction() -> None:
    strategy = build("ewc", 3, convolutional(), fisher="sampled")
    strategy.net.backbone[1].eval()  # a mode that must survive
    before = {k: v.clone() for k, v in strategy.net.state_dict().items()}
    modes = [m.training for m in strategy.modules()]
    clock.set(0, 3, "end")
    expected = torch.rand(2)
    clock.set(0, 3, "end")
    data = pixels(10)
    assert not strategy.end(experience(0, [0, 1], Batch(data.x, data.y, data.task, data.uid)))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(v, before[k]) for k, v in strategy.net.state_dict().items())
    assert modes == [m.training for m in strategy.modules()]
    assert all(p.grad is None for p in strategy.parameters())


def test_only_the_net_is_trainable() -> None:
    strategy = build("ewc", 2, logistic())
    assert [id(p) for p in strategy.trainable()] == [id(p) for p in strategy.net.parameters()]


def move(strategy: Any, weight: float) -> None:
    """Let w_1 be `weight`, with all else at its start."""
    with torch.no_grad():
        strategy.net.get_parameter("head.weight")[1] = weight


def after_two(mode: str, gamma: float = 1.0) -> Any:
    """Experience 0 ends at w_1 = ln 3 with x=1, y=1; experience 1 at w_1 = 0 with x=2, y=1.

    F_0 = 1/16 for all four entries (biases and weights). At w_1 = 0, p = 1/2: F_1 = 1/4 for the
    biases, 1 for the weights.
    """
    strategy = build("ewc", 2, logistic(), lam=6.0, mode=mode, gamma=gamma)
    strategy.prepare(experience(0, [0, 1]))
    first = batch_of([[1.0]], [1])
    assert set(strategy.loss(first)) == {"new"}
    strategy.end(experience(0, [0, 1], first))
    strategy.prepare(experience(1, [0, 1]))
    move(strategy, 0.0)
    # lambda/2 F_0 (0 - ln 3)^2
    penalty = strategy.loss(first)["penalty"].item()
    assert penalty == pytest.approx(3 / 16 * LN3**2, rel=1e-5)
    strategy.end(experience(1, [0, 1], batch_of([[2.0]], [1])))
    return strategy


def test_penalties_of_experiences_add_up() -> None:
    """At w_1 = 1: 3 [1/16 (1 - ln 3)^2 + 1 (1 - 0)^2]; slope 6 [1/16 (1 - ln 3) + 1]."""
    strategy = after_two("separate")
    move(strategy, 1.0)
    penalty = strategy.loss(batch_of([[1.0]], [1]))["penalty"]
    assert penalty.item() == pytest.approx(3 * ((1 - LN3) ** 2 / 16 + 1), rel=1e-5)
    penalty.backward()
    slope = strategy.net.get_parameter("head.weight").grad[1].item()
    assert slope == pytest.approx(6 * ((1 - LN3) / 16 + 1), rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.0])
def test_online_keeps_one_centre_and_fades(gamma: float) -> None:
    """At w_1 = 1: 3 [gamma/16 + 1] (1 - 0)^2, around the latest weights alone."""
    strategy = after_two("online", gamma)
    move(strategy, 1.0)
    penalty = strategy.loss(batch_of([[1.0]], [1]))["penalty"].item()
    assert penalty == pytest.approx(3 * (gamma / 16 + 1), rel=1e-5)


def test_many_experiences_equal_the_naive_sum() -> None:
    """Value and gradient of the folded penalty against one term per experience."""
    net = convolutional()
    strategy = build("ewc", 3, net, lam=2.0)
    g = torch.Generator().manual_seed(5)
    terms = []
    data = pixels(10)
    for index in range(4):
        with torch.no_grad():
            for p in net.parameters():
                p += 0.3 * torch.randn(p.shape, generator=g)
        clock.set(0, index, "end")
        squares = list(strategy.estimate(data).values())
        terms.append((squares, [p.detach().clone() for p in net.parameters()]))
        clock.set(0, index, "end")
        strategy.end(experience(index, [0], Batch(data.x, data.y, data.task, data.uid)))
    with torch.no_grad():
        for p in net.parameters():
            p += 0.3 * torch.randn(p.shape, generator=g)
    params = list(net.parameters())
    naive = torch.stack(
        [
            (f * (p - old).square()).sum()
            for squares, olds in terms
            for f, old, p in zip(squares, olds, params, strict=True)
        ]
    ).sum()
    folded = strategy.distance()
    torch.testing.assert_close(folded, naive, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(folded, params), torch.autograd.grad(naive, params), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_an_experience_without_samples_adds_nothing() -> None:
    strategy = build("ewc", 2, logistic())
    nothing = torch.zeros(0, dtype=torch.long)
    empty = Batch(torch.zeros(0, 1), nothing, nothing, nothing)
    strategy.end(experience(0, [0, 1], empty))
    assert strategy.distance().item() == 0


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("lam", -1.0, "0 or more"),
        ("lam", float("nan"), "0 or more"),
        ("mode", "offline", "separate, online"),
        ("gamma", 1.5, "0 to 1"),
        ("gamma", -0.1, "0 to 1"),
        ("fisher", "exact", "empirical, sampled"),
        ("fisher_samples", 0, "1 or more"),
    ],
)
def test_bad_options_name_themselves(option: str, value: object, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("ewc", 2, **{option: value})
    assert str(caught.value).startswith(f"{option}: {value!r} ") and hint in str(caught.value)
