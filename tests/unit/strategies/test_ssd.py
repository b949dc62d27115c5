"""Selective synaptic dampening against the numbers of its specification, and its requests."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.experience import Batch, Samples
from clframe.core.net import Net
from clframe.errors import ConfigError
from tests.unit.strategies.methods import (
    batch_of,
    build,
    experience,
    images,
    make,
    request,
    small_net,
    stream,
    trained,
)

CHAIN = "ssd+fine_tune"
PLUGIN = make("ssd", make("fine_tune"))
dampen = type(PLUGIN).forget.__globals__["dampen"]
importance_sums = type(PLUGIN).forget.__globals__["importance_sums"]
THETA, ALL, FORGET = [1.0, 2.0, -3.0, 4.0], [0.10, 0.20, 0.0, 0.05], [2.0, 1.0, 0.3, 0.05]


def double(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weights(strategy: Any) -> dict[str, Tensor]:
    return {k: p.detach().clone() for k, p in strategy.net.named_parameters()}


@pytest.mark.parametrize(
    ("alpha", "lam", "wanted"),
    [
        (10, 1, [0.05, 2, 0, 4]),
        (1, 1, [0.05, 0.4, 0, 4]),
        (10, 5, [0.25, 2, 0, 4]),
        (1, 30, [1, 2, 0, 4]),
    ],
)
def test_dampening(alpha: float, lam: float, wanted: list[float]) -> None:
    found = dampen(double(THETA), double(ALL), double(FORGET), alpha, lam)
    torch.testing.assert_close(found, double(wanted), rtol=1e-12, atol=1e-12)


def test_ties_and_weights_that_matter_for_nothing_stay_as_they_are() -> None:
    theta, ever = torch.randn(50), torch.rand(50)
    assert torch.equal(dampen(theta, ever, 10 * ever, 10, 1), theta)
    zero = torch.zeros(50)
    assert torch.equal(dampen(theta, zero, zero, 10, 1), theta)
    assert torch.equal(dampen(theta, zero, ever + 1, 10, 1), theta * 0)


def test_the_scale_of_the_loss_does_not_matter() -> None:
    g = torch.Generator().manual_seed(0)
    theta, ever, now = torch.randn(3, 100, dtype=torch.float64, generator=g)
    ever, now = ever.square(), 10 * now.square()
    one = dampen(theta, ever, now, 5, 1)
    torch.testing.assert_close(one, dampen(theta, 9 * ever, 9 * now, 5, 1), rtol=0, atol=1e-12)
    assert not torch.equal(one, theta)


def test_weights_shrink_by_more_than_the_ratio_and_fewer_with_a_larger_alpha() -> None:
    g = torch.Generator().manual_seed(0)
    theta, ever, now = torch.randn(3, 1000, dtype=torch.float64, generator=g)
    ever, now = ever.square(), 20 * now.square()
    counts = []
    for alpha in (1, 2, 5, 10, 50, 100):
        for lam in (0.1, 0.5, 1):
            found = dampen(theta, ever, now, alpha, lam)
            changed = found != theta
            assert (found[changed].abs() < lam / alpha * theta[changed].abs()).all()
        counts.append(int(changed.sum()))
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] > 0


def four() -> tuple[Net, Samples]:
    """A softmax of two classes whose bias is 0, and four samples, in double precision."""
    net = Net(nn.Flatten(), 2, 2).double()
    with torch.no_grad():
        net.get_parameter("head.weight").copy_(double([0.5, -0.25, -0.1, 0.3]).view(2, 2))
        net.get_parameter("head.bias").zero_()
    rows = batch_of([[1, 2], [2, -1], [-1, 1], [0.5, 0.5]], [0, 1, 1, 0])
    return net, Samples(*rows._replace(x=rows.x.double()))


def on(net: Net, num_classes: int, **options: Any) -> Any:
    return build(CHAIN, num_classes, net, **options)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"fisher": "per_sample"}, [0.852383, 0.598607]),
        ({"batch_size": 1}, [0.852383, 0.598607]),
        ({"batch_size": 2}, [0.175881, 0.549614]),
        ({"batch_size": 4}, [0.022058, 0.276481]),
    ],
)
def test_importance_depends_on_the_batch(options: dict[str, Any], wanted: list[float]) -> None:
    net, data = four()
    found = on(net, 2, **options).importance(data)["head.weight"]
    torch.testing.assert_close(found, double(wanted).expand(2, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fisher", ["batch", "per_sample"])
def test_a_loss_thrice_as_large_has_nine_times_the_importances_and_dampens_alike(
    monkeypatch: pytest.MonkeyPatch, fisher: str
) -> None:
    plain, found = F.cross_entropy, []
    for c in (1.0, 3.0):
        net, data = four()
        strategy = on(net, 2, fisher=fisher, alpha=1.0)
        monkeypatch.setattr(F, "cross_entropy", lambda *args, c=c: c * plain(*args))
        parts = [Batch(*data.take(torch.tensor(rows))) for rows in ([0, 1], [2, 3])]
        first, second = (experience(i, [0, 1], part) for i, part in enumerate(parts))
        strategy.end(first)
        strategy.end(second)
        measured = strategy.importance(data)
        strategy.forget(request(first))
        found.append((measured, weights(strategy), strategy.selected))
    (one, after, chosen), (nine, same, alike) = found
    for name in one:
        torch.testing.assert_close(nine[name], 9 * one[name], rtol=1e-12, atol=0)
        torch.testing.assert_close(same[name], after[name], rtol=0, atol=1e-12)
    assert chosen == alike and any(chosen[2].values())


def test_without_labels_it_is_the_gradient_of_the_norm() -> None:
    """By hand: d |W x|^2 / d W = 2 (W x) x^T, of one sample; magnitudes, not squares."""
    net, data = four()
    labels = Samples(data.x, 1 - data.y, data.task, data.uid)
    options = {"loss": "norm", "fisher": "per_sample"}
    found = on(net, 2, **options).importance(data)["head.weight"]
    outputs = data.x @ net.get_parameter("head.weight").detach().T
    each = 2 * torch.einsum("nc,nd->ncd", outputs, data.x)
    torch.testing.assert_close(found, each.abs().mean(0))
    assert torch.equal(found, on(net, 2, **options).importance(labels)["head.weight"])


def test_importances_of_parts_add_up_to_those_of_the_union() -> None:
    net, data = four()
    parts = [Samples(*data.take(torch.tensor(rows))) for rows in ([0], [1, 2, 3])]
    strategy = on(net, 2, fisher="per_sample")
    for index, part in enumerate(parts):
        strategy.kept[index] = (len(part), strategy.importance(part))
    union = strategy.importance(data)
    for name, value in strategy._of_everything().items():
        torch.testing.assert_close(value, union[name], rtol=0, atol=1e-10)


def test_ranks_share_batches_and_square_before_they_add() -> None:
    net, data = four()
    data = Samples.cat([data, data, data, data])
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Samples(x, data.y, data.task, data.uid)
    batches = torch.arange(16).split(4)
    ranks = [importance_sums(net, data, batches[2 * r : 2 * r + 2], "") for r in (0, 1)]
    whole = importance_sums(net, data, batches, "")
    merged = [torch.cat([batches[i], batches[i + 2]]) for i in (0, 1)]  # gradients averaged first
    wrong = importance_sums(net, data, merged, "")
    for name, value in whole.items():
        torch.testing.assert_close(ranks[0][name] + ranks[1][name], value, rtol=0, atol=1e-12)
        assert not torch.allclose(wrong[name] / 2, value / 4, rtol=0.01)


def test_importance_leaves_no_trace_and_sees_no_augmentation() -> None:
    net = Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout()), 8, 4)
    strategy = on(net, 4)
    before, data = copy.deepcopy(net.state_dict()), Samples(*images(0))
    found = [strategy.importance(data) for _ in range(2)]
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert strategy.training and net.training and all(p.grad is None for p in net.parameters())
    assert "backbone.2.bias" in found[0]  # of batch norm


def test_each_experience_is_measured_as_it_ends() -> None:
    wrapped = trained(CHAIN)
    assert list(wrapped.kept) == [0, 1] and [n for n, _ in wrapped.kept.values()] == [6, 6]
    assert {v.dtype for _, kept in wrapped.kept.values() for v in kept.values()} == {torch.float32}


def test_a_request_without_data_takes_what_was_measured_then() -> None:
    strategy = trained(CHAIN, alpha=1.5)
    before, kept = weights(strategy), dict(strategy.kept)
    exp = request(stream()[0], handed=False)
    assert strategy.budget(exp) is None and strategy.forget(exp) is True
    for name, weight in weights(strategy).items():
        ever = (kept[0][1][name].double() + kept[1][1][name].double()) / 2
        now = kept[0][1][name].double()
        assert torch.equal(weight, dampen(before[name], ever, now, 1.5, 1.0))
        assert strategy.selected[2][name] == float((now > 1.5 * ever).double().mean())
    assert list(strategy.kept) == [1] and any(strategy.selected[2].values())


def test_measured_alike_nothing_matters_more_than_its_share() -> None:
    """I_D is a mean that I_F is a part of: an alpha of n_D / n_F or more selects nothing."""
    strategy = trained(CHAIN, alpha=2.0)
    before = weights(strategy)
    assert strategy.forget(request(stream()[0], handed=False)) is False
    assert all(torch.equal(v, before[k]) for k, v in weights(strategy).items())


def test_a_request_with_data_measures_it_now() -> None:
    strategy, part = (
        trained(CHAIN, alpha=2.0),
        dataclasses.replace(request(stream()[0]), forgets=()),
    )
    now = strategy.importance(part.train)
    before, ever = weights(strategy), strategy._of_everything()
    assert strategy.forget(part) is True
    for name, weight in weights(strategy).items():
        assert torch.equal(weight, dampen(before[name], ever[name], now[name], 2.0, 1.0))
    assert list(strategy.kept) == [0, 1]  # of a part, what was measured stays


def test_a_floor_keeps_weights_that_matter_for_nothing_else() -> None:
    found = {}
    for floor in (0.0, 1e-12):
        strategy = trained(CHAIN, alpha=1.0, lam=1e9, floor=floor)
        strategy.kept = {0: (6, {"head.bias": torch.tensor([1.0, 0.0, 0.0, 0.0])})}
        strategy.forget(request(stream()[0]))
        found[floor] = strategy.net.get_parameter("head.bias").detach()
    assert (found[0.0][1:] == 0).all() and found[1e-12][1:].any()


def test_of_a_buffer_it_is_measured_before_rows_are_dropped() -> None:
    strategy = trained("ssd+replay", source="buffer", alpha=1.0)
    memory, seen = strategy.base.memory, []
    plain = strategy.importance
    strategy.importance = lambda data: seen.append(data.uid.tolist()) or plain(data)
    held = memory.column("uid").tolist()
    strategy.forget(request(stream()[0], handed=False))
    assert seen == [held]
    assert not set(memory.column("uid").tolist()) & set(stream()[0].uids)


def test_all_data_is_asked_for_and_measured_now() -> None:
    strategy, (first, second) = trained(CHAIN, source="oracle", alpha=1.0), stream()
    assert not strategy.kept
    exp = request(first)
    assert strategy.budget(exp) == 1 and strategy.forget_loss(exp, images(0)) == {}
    empty = Samples(*(t[:0] for t in images(0)))
    past = [dataclasses.replace(first, train=empty), second]
    every = strategy.data(exp, past)
    assert every.uid.tolist() == [*second.train.uid.tolist(), *first.train.uid.tolist()]
    ever, now = strategy.importance(every), strategy.importance(first.train)
    before = weights(strategy)
    strategy.forget(exp)
    for name, weight in weights(strategy).items():
        assert torch.equal(weight, dampen(before[name], ever[name], now[name], 1.0, 1.0))
    assert strategy._everything is None and strategy.data(first, []) is None


def test_data_that_is_needed_is_asked_for_in_advance() -> None:
    first, second = stream()
    strategy = build(CHAIN, 4, small_net())
    for exp in (first, second):
        assert strategy.budget(exp) is None
    part = dataclasses.replace(request(first, handed=False), forgets=(), uids=first.uids[:2])
    more = dataclasses.replace(request(first, handed=False), uids=(*first.uids, second.uids[0]))
    for exp in (part, more):
        with pytest.raises(ConfigError, match="set forget_data=true"):
            strategy.budget(exp)
    assert strategy.budget(request(first, second, handed=False)) is None
    with pytest.raises(ConfigError, match=r"requests\[2\]: ssd with source=stale"):
        strategy.forget(part)
    assert strategy.budget(dataclasses.replace(part, train=first.train)) is None
    oracle = build(CHAIN, 4, small_net(), source="oracle")
    with pytest.raises(ConfigError, match="it is to forget, always,"):
        oracle.budget(request(first, handed=False))


def test_frozen_weights_stay() -> None:
    strategy = trained(CHAIN, alpha=1.0)
    strategy.net.freeze()
    before = weights(strategy)
    strategy.forget(request(stream()[0], handed=False))
    after = weights(strategy)
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("head") for k in changed)


def test_a_checkpoint_holds_all_that_a_request_needs() -> None:
    strategy, file = trained(CHAIN, alpha=1.5), io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    again = build(CHAIN, 4, small_net(), alpha=1.5)
    again.load_state_dict(torch.load(file, weights_only=True))
    for one in (strategy, again):
        one.forget(request(stream()[0], handed=False))
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(strategy).items())
    assert again.selected == strategy.selected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fisher": "sample"}, "fisher: 'sample' is unknown; choose from batch, per_sample"),
        ({"loss": "mse"}, "loss: 'mse' is unknown; choose from cross_entropy, norm"),
        ({"source": "all"}, "source: 'all' is unknown; choose from stale, buffer, oracle"),
        ({"source": "buffer"}, "source: 'buffer' needs a base with a replay memory"),
        ({"alpha": -1.0}, "alpha: -1.0 is out of range; give 0 or more"),
        ({"batch_size": 0}, "batch_size: 0 is out of range; give 1 or more"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        on(small_net(), 4, **options)
