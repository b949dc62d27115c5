"""PCR and HPCR: what a step contrasts, swings, distils and stores (examples 6 and 9)."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.augment import ResizedCrop
from clframe.core.experience import Batch
from clframe.core.losses import relation_distillation
from clframe.core.net import CosineLinear, Net
from clframe.core.rng import clock
from clframe.errors import ConfigError
from tests.unit.core.contrasts import AXES, NW, E, N, W, contrast, pairs, rows
from tests.unit.strategies.methods import batch_of, build, experience, images, small_net, step

PLAIN = {"period": 0, "alpha": 0, "beta": 0}


def terms_of(strategy: Any, batch: Batch) -> dict[str, Tensor]:
    """The loss, as a step comes to it."""
    strategy.before_step(batch)
    terms: dict[str, Tensor] = strategy.loss(batch)
    return terms


def plane(**options: Any) -> Any:
    """A strategy on inputs that are their own features, with the axes for proxies."""
    strategy = build("hpcr", 2, Net(nn.Flatten(), 2, 2), **options)
    with torch.no_grad():
        strategy.net.head.weight.copy_(rows(AXES))
    strategy.prepare(experience(0, [0, 1]))
    strategy.begin(experience(0, [0, 1]))
    return strategy


def remember(strategy: Any, x: list[list[float]], y: list[int]) -> None:
    """Fill the memory with samples as the strategy sees them."""
    batch = batch_of(x, y, first=100)
    terms_of(strategy, batch)
    strategy.after_batch(batch)
    strategy.batches.zero_()


@pytest.mark.parametrize(
    ("mode", "expected"), [("proxy", 0.999623), ("one", 1.531744), ("all", 1.461929)]
)
def test_a_step_contrasts_both_views_of_batch_and_memory(mode: str, expected: float) -> None:
    """Inputs that are no images have two equal views, so n_c doubles: as written out below."""
    strategy = plane(**PLAIN, temperature=0.5, pair_mode=mode)
    remember(strategy, [E, W], [0, 0])
    terms = terms_of(strategy, batch_of([N, NW], [1, 1]))
    z = rows([E, W, E, W, N, NW, N, NW])
    y = torch.tensor([0] * 4 + [1] * 4)
    if mode == "proxy":
        losses = contrast(z.tolist(), y.tolist(), 0.5)
        assert terms["replay"].item() == pytest.approx(losses[:4].sum().item() / 8, abs=1e-6)
        assert terms["new"].item() == pytest.approx(losses[4:].sum().item() / 8, abs=1e-6)
        wanted = expected + math.log(2)  # every class weighs twice
        assert losses.mean().item() == pytest.approx(wanted, abs=1e-5)
    else:
        wanted = pairs(mode, z, y, rows(AXES), 0.5)
    assert set(terms) == {"new", "replay"}
    assert sum(t.item() for t in terms.values()) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("threshold", "like"), [(2, "one"), (3, "proxy")])
def test_auto_takes_pairs_for_large_draws(threshold: int, like: str) -> None:
    found = []
    for mode in ("auto", like):
        strategy = plane(**PLAIN, pair_mode=mode, pair_threshold=threshold)
        remember(strategy, [E, W], [0, 0])
        found.append(terms_of(strategy, batch_of([N, NW], [1, 1])))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("batch", "expected"), [(0, 0.5625), (125, 1.18125), (250, 1.8), (375, 1.18125), (500, 0.5625)]
)
def test_example_6_the_swing(batch: int, expected: float) -> None:
    """It multiplies the contrastive loss, its value and its gradient, and nothing else."""
    swinging, still = plane(), plane(period=0)
    found = []
    for strategy in (swinging, still):
        remember(strategy, [E, W], [0, 1])
        strategy.prepare(experience(1, [0, 1]))
        with torch.no_grad():
            strategy.net.head.weight.copy_(rows([W, NW]))
        strategy.batches += batch
        clock.set(0, 7)
        terms = terms_of(strategy, batch_of([N, E], [1, 0]))
        contrastive = terms["new"] + terms["replay"]
        (gradient,) = torch.autograd.grad(contrastive, strategy.net.head.weight, retain_graph=True)
        found.append((contrastive, gradient, terms["proxy_distil"], terms["sample_distil"]))
    assert swinging.swing().item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(found[0][0], expected * found[1][0])
    torch.testing.assert_close(found[0][1], expected * found[1][1])
    assert found[0][2:] == found[1][2:]


def test_the_swing_starts_anew_with_each_experience() -> None:
    strategy = plane(period=4)
    remember(strategy, [E], [0])
    for _ in range(3):
        strategy.after_batch(batch_of([N], [1]))
    assert strategy.batches.item() == 3
    strategy.prepare(experience(1, [0, 1]))
    assert strategy.batches.item() == 3, "prepare runs again on resume: it may not count"
    strategy.begin(experience(1, [0, 1]))
    assert strategy.batches.item() == 0


def test_example_9_nothing_happens_while_the_memory_is_empty() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8))
    strategy = build("hpcr", 4, Net(backbone, 8, 4))
    strategy.prepare(experience(0, [0, 1]))
    strategy.begin(experience(0, [0, 1]))
    before = copy.deepcopy(dict(strategy.named_parameters()))
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1)
    step(strategy, optimizer, 1, images(1))
    for name, parameter in strategy.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert len(strategy.memory) == 6
    assert backbone[2].num_batches_tracked == 1, "the forward still counts for batch norm"
    step(strategy, optimizer, 2, images(2))
    assert any(not torch.equal(p, before[n]) for n, p in strategy.named_parameters())


def test_distillation_begins_with_the_second_experience() -> None:
    strategy = plane()
    remember(strategy, [E, W], [0, 1])
    assert set(terms_of(strategy, batch_of([N], [1]))) == {"new", "replay"}
    strategy.prepare(experience(1, [0, 1]))
    terms = terms_of(strategy, batch_of([N], [1]))
    assert set(terms) == {"new", "replay", "proxy_distil", "sample_distil"}
    strategy.alpha = 0.0
    assert set(terms_of(strategy, batch_of([N], [1]))) == {"new", "replay", "sample_distil"}


def test_distillation_terms_by_hand() -> None:
    """Memory rows in both views against what they were when they came."""
    strategy = plane(temperature=0.5, alpha=0.3, beta=0.7, replay_size=2)
    remember(strategy, [E, W], [0, 1])
    strategy.prepare(experience(1, [0, 1]))
    with torch.no_grad():
        strategy.net.head.weight.copy_(rows([W, NW]))
    terms = terms_of(strategy, batch_of([N], [1]))
    old = F.normalize(rows([E, W])) @ rows(AXES).T / 0.5
    now = F.normalize(rows([E, W])) @ rows([W, NW]).T / 0.5
    columns = [0, 1, 0, 1, 1, 1]
    change = (now - old)[:, columns].square().mean()
    assert terms["proxy_distil"].item() == pytest.approx(0.3 * change.item(), abs=1e-5)
    z = rows([E, W, E, W])  # features have not moved: the entropy of their own relations
    relations = relation_distillation(z, torch.arange(4), z, z, 0.5).mean()
    assert terms["sample_distil"].item() == pytest.approx(0.7 * relations.item(), abs=1e-6)


def test_what_is_stored_is_the_plain_view_before_the_last_update() -> None:
    strategy = build("hpcr", 4, small_net(dropout=False), repeats=2)
    strategy.prepare(experience(0, [0, 1]))
    strategy.begin(experience(0, [0, 1]))
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1)
    step(strategy, optimizer, 1, images(1))
    batch = images(2)
    before = copy.deepcopy(strategy.net.state_dict())
    clock.set(0, 2)
    torch.stack(list(terms_of(strategy, batch).values())).sum().backward()
    optimizer.step()
    middle = strategy.net.features(batch.x).detach()
    clock.set(0, 3)
    torch.stack(list(terms_of(strategy, batch).values())).sum().backward()
    optimizer.step()
    strategy.after_batch(batch)
    uids, features = strategy.memory.column("uid").tolist(), strategy.memory.column("features")
    stored = dict(zip(uids, features, strict=True))
    for uid, feature in zip(batch.uid.tolist(), middle, strict=True):
        torch.testing.assert_close(stored[uid], feature)
    assert not torch.equal(before["head.weight"], strategy.net.head.weight)


def test_one_second_view_for_all_repeats_and_a_new_one_for_the_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    crop = ResizedCrop.forward
    monkeypatch.setattr(ResizedCrop, "forward", lambda self, x: seen.append(x) or crop(self, x))
    strategy = build("hpcr", 4, small_net(), repeats=3)
    strategy.prepare(experience(0, [0, 1]))
    first, second = images(1), images(2)
    for _ in range(3):
        terms_of(strategy, first)
    strategy.after_batch(first)
    assert len(seen) == 1
    for _ in range(3):
        terms_of(strategy, second)  # and a new one of each draw
    assert [torch.equal(x, second.x) for x in seen[1:]] == [True, False, False, False]


def test_the_second_view_may_be_the_configured_one() -> None:
    strategy = build("hpcr", 4, small_net(), view="net")
    x = images(1).x
    clock.set(0, 5)
    expected = strategy.net.augment(x)
    clock.set(0, 5)
    assert torch.equal(strategy._viewed(x), expected) and not torch.equal(expected, x)


def test_the_head_fits_the_backbone() -> None:
    """The published code builds it for 160 features, whatever the network gives."""
    for width in (3, 640):
        strategy = build("hpcr", 5, Net(nn.LazyLinear(width), width, 5), temperature=0.2)
        head = strategy.net.head
        assert isinstance(head, CosineLinear) and head.weight.shape == (5, width)
        assert (head.scale, head.guard) == (5.0, 1e-6)


def test_a_growing_head_stores_no_closed_logits() -> None:
    strategy = build("hpcr", 4, small_net(growing=True, dropout=False))
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.01)
    for index in range(2):
        strategy.prepare(experience(index, [2 * index, 2 * index + 1]))
        strategy.begin(experience(index, [2 * index, 2 * index + 1]))
        for number in range(3):
            batch = images(3 * index + number, (2 * index, 2 * index + 1))
            step(strategy, optimizer, 3 * index + number + 1, batch)
    assert strategy.memory.column("logits").abs().max() <= 1 / 0.09
    terms = terms_of(strategy, images(9, (2, 3)))
    assert all(0 <= t.item() < 50 for t in terms.values())


def test_pcr_stores_neither_logits_nor_features() -> None:
    strategy = plane(**PLAIN)
    remember(strategy, [E, W], [0, 1])
    assert strategy.swing() == 1 and set(strategy.memory.state_dict()) == {
        "column_x",
        "column_y",
        "column_task",
        "column_uid",
        "_extra_state",
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("tau_low", -1.0),
        ("alpha", -0.1),
        ("beta", float("nan")),
        ("pair_mode", "pair"),
        ("view", "crop"),
        ("repeats", 0),
        ("period", -1),
        ("replay_size", 0),
        ("capacity", 0),
    ],
)
def test_options_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        build("hpcr", 2, **{option: value})
