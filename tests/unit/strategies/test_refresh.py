"""Refresh learning: every numeric example of its specification, and what it must leave alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clframe.core.experience import Batch
from clframe.core.gradients import fisher_diagonal
from clframe.core.losses import cross_entropy
from clframe.core.net import Net
from clframe.core.rng import clock
from clframe.errors import ConfigError
from tests.unit.strategies.methods import (
    batch_of,
    build,
    experience,
    identity_net,
    images,
    small_net,
    step,
)

SILENT = {"noise_scale": 0.0}
SAMPLE = batch_of([[1, 0]], [0])
CONSTANTS = {"fisher_scale": 1e-3}


def weights(strategy: Any) -> tuple[list[list[float]], list[float]]:
    head = strategy.net.head
    return head.weight.tolist(), head.bias.tolist()


def unlearnt(**options: Any) -> Any:
    """A linear softmax model (W = I, b = 0) after one step uphill on x = (1, 0), y = 0."""
    strategy = build("refresh+fine_tune", 2, **{**SILENT, **options})
    strategy.before_step(SAMPLE)
    return strategy


@pytest.mark.parametrize("delta", [0.1, 1e-5])
def test_example_1_a_step_relative_to_each_tensor(delta: float) -> None:
    weight, bias = weights(unlearnt(delta=delta))
    assert weight[0] == pytest.approx([1 - delta, 0], abs=1e-7)
    assert weight[1] == pytest.approx([delta, 1], abs=1e-7)
    assert bias == [0, 0], "a tensor of length 0 stays where it is"


def test_example_2_important_weights_are_spared() -> None:
    strategy = build("refresh+fine_tune", 2, delta=0.1, **SILENT)
    with torch.no_grad():
        strategy.fisher[0][0, 0] = 1000
    strategy.before_step(SAMPLE)
    assert weights(strategy)[0] == [pytest.approx([0.95, 0]), pytest.approx([0.1, 1])]


def test_example_3_the_loss_rises() -> None:
    for delta, expected in ((0.0, 0.313262), (0.1, 0.371101)):
        strategy = unlearnt(delta=delta)
        loss = cross_entropy(strategy.net(SAMPLE.x), SAMPLE.y).item()
        assert loss == pytest.approx(expected, abs=1e-6)


def test_example_4_the_gradients_length_does_not_matter() -> None:
    """The published code takes a step of lr 0.01 on a copy to find the direction; lr cancels."""
    once, thrice = unlearnt(delta=0.1), build("refresh+fine_tune", 2, delta=0.1, **SILENT)
    rows = batch_of([[1, 0]] * 3, [0] * 3)
    thrice._uphill = lambda _: {"new": 300 * cross_entropy(thrice.net(rows.x), rows.y)}
    thrice.before_step(rows)
    assert weights(once)[0] == [pytest.approx(row, abs=1e-7) for row in weights(thrice)[0]]


def test_example_5_fisher() -> None:
    strategy = build("refresh+fine_tune", 2, **SILENT)
    exp = experience(0, [0, 1], batch_of([[1, 0], [0, 2]], [0, 0]))
    strategy.end(exp)
    weight, bias = ([0.0264385, 0.184956] * 2, [0.0726776] * 2)
    assert strategy.fisher[0].flatten().tolist() == pytest.approx(weight, abs=1e-6)
    assert strategy.fisher[1].tolist() == pytest.approx(bias, abs=1e-6)
    first = [f.double() for f in strategy.fisher]
    strategy.end(exp)
    for old, new in zip(first, strategy.fisher, strict=True):
        torch.testing.assert_close(new.double(), 1.00001 * old, rtol=3e-7, atol=0)


def test_fisher_of_some_samples_only() -> None:
    exp = experience(0, [0, 1], batch_of([[1, 0], [0, 2]], [0, 0]))
    found = []
    for count in (1, 2):
        strategy = build("refresh+fine_tune", 2, fisher_samples=count, **SILENT)
        clock.set(0, 1, "end")
        strategy.end(exp)
        found.append(strategy.fisher[1][0].item())
    alone = [
        fisher_diagonal(identity_net(2), exp.train, torch.tensor([i]), likely=True)["head.bias"][0]
        for i in (0, 1)
    ]
    assert found[0] in [pytest.approx(a.item()) for a in alone]
    assert found[1] == pytest.approx(sum(a.item() for a in alone) / 2)


def train(name: str, batches: list[Batch], net: Net | None = None, **options: Any) -> list[Any]:
    """Weights and losses of a few steps over two experiences."""
    strategy = build(name, 4, net or small_net(), **options)
    losses: list[Any] = []
    inner = strategy.loss

    def loss(batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = inner(batch)
        losses.append({k: v.item() for k, v in terms.items()})
        return terms

    strategy.loss = loss
    for index in range(2):
        clock.set(0, 100 + index, "begin")
        strategy.prepare(experience(index, [2 * index, 2 * index + 1]))
        strategy.begin(experience(index, [2 * index, 2 * index + 1]))
        optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1, momentum=0.9)
        for number, batch in enumerate(batches):
            step(strategy, optimizer, 10 * index + number, batch)
        clock.set(0, 200 + index, "end")
        strategy.end(experience(index, [2 * index, 2 * index + 1], batches[0]))
    return [dict(strategy.net.state_dict()), losses]


def same(a: list[Any], b: list[Any]) -> bool:
    return a[1] == b[1] and all(torch.equal(v, b[0][k]) for k, v in a[0].items())


BASES = ["replay", "derpp", "er_ace", "hpcr", "ewc"]


@pytest.mark.parametrize("base", BASES)
def test_example_6_without_a_step_it_is_the_base(base: str) -> None:
    batches = [images(i) for i in range(3)]
    plain = train(base, batches)
    assert same(plain, train(f"refresh+{base}", batches, delta=0.0))
    assert not same(plain, train(f"refresh+{base}", batches, delta=0.01))


@pytest.mark.parametrize("scope", ["current_ce", "full_cl"])
@pytest.mark.parametrize("base", BASES)
def test_a_step_that_moves_nothing_leaves_no_trace(base: str, scope: str) -> None:
    """All of unlearning but its length: dropout, views and memory draws of the step are its own."""
    batches = [images(i) for i in range(3)]
    moved = train(f"refresh+{base}", batches, delta=1e-30, ascents=2, loss_scope=scope)
    assert same(train(base, batches), moved)


def test_example_7_statistics_and_gradients_are_left_alone() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    strategy = build("refresh+replay", 4, Net(backbone, 8, 4), delta=0.1)
    before = copy.deepcopy(strategy.net.state_dict())
    marked = torch.ones(8, 48)
    backbone[1].weight.grad = marked
    strategy.before_step(images(1))
    assert backbone[1].weight.grad is marked and backbone[1].bias.grad is None
    for name, value in strategy.net.state_dict().items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(value, before[name]) == (statistic or name == "opened"), name


def test_example_8_unlearning_first_is_descent_on_a_flatter_loss() -> None:
    """theta = 1, L = theta^2, rate 0.1: the gradient where it lands is that of L + 0.05 |dL|^2."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    net = Net(Square(), 1, 1)
    strategy = build("refresh+fine_tune", 1, net, norm="none", delta=0.1, **SILENT)
    theta = net.get_parameter("head.weight")
    with torch.no_grad():
        theta.fill_(1.0)
    strategy._uphill = lambda _: {"new": theta.square().sum()}
    strategy.unlearn(batch_of([[1]], [0]))
    (found,) = torch.autograd.grad(theta.square().sum(), theta)
    start = torch.ones(1, requires_grad=True)
    (slope,) = torch.autograd.grad(start.square().sum(), start, create_graph=True)
    (flat,) = torch.autograd.grad((start.square() + 0.05 * slope.square()).sum(), start)
    assert found.item() == pytest.approx(2.4) == flat.item()


def test_example_9_the_divergences_of_the_common_objective() -> None:
    """Replay's cross-entropy is KL(one-hot || p); a uniform target rewards entropy."""
    p = torch.tensor([[0.7, 0.2, 0.1]])
    replay = cross_entropy(p.log(), torch.tensor([0])).item()
    assert replay == pytest.approx(0.356675, abs=1e-6)
    divergence = (p * (p * 3).log()).sum().item()
    assert divergence == pytest.approx(0.296794, abs=1e-6)
    entropy = -(p * p.log()).sum().item()
    assert entropy == pytest.approx(0.801819, abs=1e-6)
    assert divergence == pytest.approx(torch.tensor(3.0).log().item() - entropy, abs=1e-6)


def test_paper_mode_climbs_the_whole_loss() -> None:
    """One step of rate delta along the gradient of all terms of the base."""
    strategy = build("refresh+replay", 2, delta=0.5, loss_scope="full_cl", norm="none", **SILENT)
    strategy.base.memory.add(**batch_of([[0, 3], [2, 1]], [1, 0], first=9)._asdict())
    rows, labels = torch.tensor([[1.0, 0], [0, 3]]), torch.tensor([0, 1])
    clock.set(0, 3)
    drawn = strategy.base.memory.sample(1)
    assert drawn is not None
    rows[1], labels[1] = drawn["x"][0], drawn["y"][0]
    twin = identity_net(2)
    cross_entropy(twin(rows), labels).backward()
    clock.set(0, 3)
    strategy.before_step(SAMPLE)
    wanted = twin.get_parameter("head.weight")
    torch.testing.assert_close(strategy.net.head.weight, wanted + 0.5 * wanted.grad)


def test_noise_is_normal_and_new_at_each_step() -> None:
    """A tensor of length 0 moves by noise alone: delta noise_scale xi."""
    found = []
    for number in (1, 2):
        net = Net(nn.Flatten(), 5000, 2)
        strategy = build("refresh+fine_tune", 2, net, delta=0.5, noise_scale=0.2)
        with torch.no_grad():
            net.get_parameter("head.weight").zero_()
        clock.set(0, number)
        strategy.before_step(Batch(torch.rand(3, 5000), *batch_of([[0]] * 3, [0, 1, 1])[1:]))
        found.append(strategy.net.head.weight.detach() / 0.1)
    assert not torch.equal(*found)
    for noise in found:
        assert noise.mean().abs() < 0.05 and noise.std().item() == pytest.approx(1, abs=0.05)


class Unused(nn.Module):
    """A backbone with a weight that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_weight_without_gradient_is_skipped() -> None:
    """By the step, its noise and the Fisher matrix, also where many samples are one chunk."""
    strategy = build("refresh+fine_tune", 2, Net(Unused(), 2, 2), delta=0.1, noise_scale=1.0)
    strategy.before_step(SAMPLE)
    strategy.end(experience(0, [0, 1], batch_of([[1, 0], [0, 2]], [0, 0])))
    assert torch.equal(strategy.net.backbone.idle, torch.ones(3))
    assert [f.abs().sum() > 0 for f in strategy.fisher] == [False, True, True]


def test_weights_that_the_base_does_not_train_stay_where_they_are() -> None:
    """Frozen after attach, or left out of `trainable`."""
    for way in ("frozen", "left out"):
        net = small_net(dropout=False)
        strategy = build("refresh+fine_tune", 4, net, delta=0.1)
        if way == "frozen":
            net.backbone.requires_grad_(False)
        else:
            strategy.base.trainable = net.head.parameters
        before = copy.deepcopy(net.state_dict())
        strategy.before_step(images(1))
        strategy.end(experience(0, [0, 1], images(1)))
        moved = [name for name, value in net.state_dict().items() if not value.equal(before[name])]
        assert moved == ["head.weight", "head.bias"], way
    net.head.requires_grad_(False)
    strategy.before_step(images(2))  # nothing left to move
    strategy.end(experience(1, [0, 1], images(2)))


def test_a_forget_request_clears_the_fisher_matrix() -> None:
    strategy = build("refresh+replay", 2, **SILENT)
    exp = experience(0, [0, 1], batch_of([[1, 0], [0, 2]], [0, 0]))
    strategy.end(exp)
    strategy.forget(exp)
    assert all(f.abs().sum() == 0 for f in strategy.fisher)


def test_several_ascents_are_several() -> None:
    twice, once = unlearnt(delta=0.1, ascents=2), unlearnt(delta=0.1)
    once.before_step(SAMPLE)
    assert weights(twice) == weights(once)


def test_an_empty_loss_of_the_base_is_nothing_to_climb() -> None:
    strategy = build("refresh+hpcr", 4, small_net(), delta=0.1, loss_scope="full_cl", **SILENT)
    strategy.prepare(experience(0, [0, 1]))
    before = copy.deepcopy(strategy.net.state_dict())
    strategy.before_step(images(1))
    for name, value in strategy.net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("delta", -1e-5),
        ("delta", float("nan")),
        ("ascents", 0),
        ("loss_scope", "current"),
        ("norm", "l2"),
        ("noise_scale", -1.0),
        ("fisher_scale", -1.0),
        ("fisher_decay", 1.5),
        ("fisher_samples", 0),
    ],
)
def test_options_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        build("refresh+fine_tune", 2, **{option: value})


def test_the_guard_against_zero_gradients_is_a_branch() -> None:
    """A gradient of length 0 gives no step, not NaN."""
    strategy = build("refresh+fine_tune", 2, delta=0.1, **SILENT)
    strategy._uphill = lambda _: {"new": 0 * strategy.net.head.weight.sum()}
    strategy.before_step(SAMPLE)
    assert weights(strategy)[0] == [[1, 0], [0, 1]]
