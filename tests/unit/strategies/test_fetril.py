"""FeTrIL against the translations, choices and accuracies of its specification."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from clframe.core.experience import Batch, Experience
from clframe.core.net import CLOSED, Net
from clframe.core.rng import clock
from clframe.errors import ConfigError
from clframe.strategies import fetril as plugin
from tests.unit.strategies.methods import batch_of, build, experience, images, small_net

STATES = [(0, 1, 2, 3), (4, 5), (6, 7), (8, 9)]


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_translation_moves_the_mean_and_nothing_else() -> None:
    source, target = rows((1, 0), (3, 2)), rows((4, 3))[0]
    moved = plugin.translate(source, source.mean(0).expand(2, 2), target)
    assert torch.equal(moved, rows((3, 2), (5, 4))) and torch.equal(moved.mean(0), target)
    unit = nn.functional.normalize(moved)
    wanted = rows((0.832050, 0.554700), (0.780869, 0.624695))
    torch.testing.assert_close(unit, wanted, rtol=0, atol=1e-6)


def test_rows_are_normalised_after_they_are_moved() -> None:
    """Normalised first, the last row would be (0.716025, 0.877350)."""
    seen = []
    strategy = build("fetril", 2, Net(nn.Flatten(), 2, 2))
    strategy._fit = lambda x, y: seen.append((x, y))
    strategy.end(experience(0, [0], batch_of([[4.0, 3.0]], [0])))
    strategy.end(experience(1, [1], batch_of([[1.0, 0.0], [3.0, 2.0]], [1, 1])))
    x, y = seen[-1]
    assert y.tolist() == [1, 1, 0, 0]
    wanted = rows((0.832050, 0.554700), (0.780869, 0.624695))
    torch.testing.assert_close(x[2:], wanted, rtol=0, atol=1e-6)


def test_the_metric_decides_which_class_is_similar() -> None:
    target, centroids = rows((1, 1))[0], rows((3, 3.3), (1, 0.2))
    assert plugin.ranked(target, centroids, "cosine").tolist() == [0, 1]
    assert plugin.ranked(target, centroids, "euclidean").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("k", "metric", "source"), [(1, "cosine", 0), (2, "cosine", 1), (1, "euclidean", 1)]
)
def test_k_is_the_rank_of_the_source(k: int, metric: str, source: int) -> None:
    strategy = build("fetril", 3, Net(nn.Flatten(), 2, 3), k=k, metric=metric)
    strategy.end(experience(0, [0], batch_of([[1.0, 1.0]], [0])))
    features, y = rows((3, 3.3), (1, 0.2), (1, 0.4), (1, 0.0)), torch.tensor([1, 2, 2, 2])
    strategy._count(features, y, torch.ones_like(y))
    made = strategy._pseudo_features(0, features, y, torch.tensor([1, 2]))
    centre = features[y == source + 1].mean(0)
    torch.testing.assert_close(made, features[y == source + 1] - centre + 1)


def test_k_stops_at_the_last_new_class() -> None:
    strategy = build("fetril", 2, Net(nn.Flatten(), 2, 2), k=7)
    strategy.end(experience(0, [0], batch_of([[1.0, 1.0]], [0])))
    strategy.end(experience(1, [1], batch_of([[1.0, 0.0], [3.0, 2.0]], [1, 1])))
    assert strategy.bias[1] > CLOSED


def test_a_class_translated_to_itself_stays() -> None:
    features = torch.randn(5, 3, dtype=torch.float64)
    mean = features.mean(0)
    torch.testing.assert_close(plugin.translate(features, mean.expand(5, 3), mean), features)


def test_herding_keeps_the_running_mean_at_zero() -> None:
    residuals = rows((-2, 0), (1, 0), (1, 1))
    order = plugin.herd(residuals, 3)
    assert order.tolist() == [1, 0, 2]
    counts = torch.arange(1, 4, dtype=torch.float64)[:, None]
    means = (residuals[order].cumsum(0) / counts).norm(dim=1)
    torch.testing.assert_close(means, torch.tensor([1, 0.5, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize("selection", ["rand", "herd"])
def test_sources_of_all_new_classes(selection: str) -> None:
    """As many rows as the past class had, each moved from its own class's mean, none twice."""
    strategy = build("fetril", 3, Net(nn.Flatten(), 2, 3), selection=selection)
    strategy.end(experience(0, [0], batch_of([[5.0, 5.0]] * 4, [0] * 4)))
    g = torch.Generator().manual_seed(0)
    features, y = torch.randn(20, 2, generator=g).double(), torch.tensor([1, 2] * 10)
    strategy._count(features, y, torch.ones_like(y))
    made = strategy._pseudo_features(0, features, y, torch.tensor([1, 2]))
    moved = features - strategy.centroids[y] + 5
    distance = torch.cdist(made, moved)
    assert len(made) == 4 and distance.argmin(1).unique().numel() == 4
    assert distance.min(1).values.max() < 1e-6
    if selection == "herd":
        every = plugin.herd(features - strategy.centroids[y], 20)
        assert sorted(every.tolist()) == list(range(20))
        assert (made.mean(0) - 5).norm() < (moved[:4].mean(0) - 5).norm()


def digits(
    options: dict[str, Any],
    states: list[tuple[int, ...]] = STATES,
    change: Callable[[Any], None] = lambda _: None,
) -> list[float]:
    """State accuracies in percent on scikit-learn's digits with F(x) = x / 16."""
    data, target = load_digits(return_X_y=True)
    x, y = (torch.from_numpy(data) / 16).float(), torch.from_numpy(target)
    strategy = build("fetril", 10, Net(nn.Flatten(), 64, 10), **options)
    change(strategy)
    accuracies, seen = [], []
    for index, classes in enumerate(states):
        seen += classes
        train = torch.nonzero(torch.isin(y[:1200], torch.tensor(classes))).flatten()
        labels = y[train]
        batch = Batch(x[train], labels, torch.zeros_like(labels), train)
        clock.set(0, index, "end")
        strategy.end(experience(index, classes, batch))
        test = torch.isin(y[1200:], torch.tensor(seen))
        found = strategy.predict(x[1200:][test], None).argmax(1)
        accuracies.append(100 * float((found == y[1200:][test]).double().mean()))
    return accuracies


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [91.32, 91.99, 92.77, 90.28]),
        ({"metric": "euclidean"}, [91.32, 91.99, 92.77, 90.28]),
        ({"k": 2}, [91.32, 90.06, 92.56, 89.61]),
    ],
)
def test_digits(options: dict[str, Any], wanted: list[float]) -> None:
    assert digits(options) == pytest.approx(wanted, abs=0.3)


def test_digits_without_pseudo_features_and_with_all_data() -> None:
    found = digits({}, change=lambda s: setattr(s, "_pseudo_features", lambda *_: s.centroids[:0]))
    assert found == pytest.approx([91.32, 32.60, 25.21, 18.26], abs=0.3)
    assert digits({}, [STATES[0], sum(STATES, ())])[1] == pytest.approx(90.28, abs=0.3)


@pytest.mark.parametrize(
    "options",
    [{"head": "fc"}, {"selection": "rand"}, {"selection": "herd"}, {"neg_ratio": 5.0}],
)
def test_digits_with_other_choices_are_near(options: dict[str, Any]) -> None:
    accuracies = digits(options)
    assert len(accuracies) == 4 and min(accuracies) > 82


def test_negatives_are_drawn_in_proportion() -> None:
    strategy = build("fetril", 2, Net(nn.Flatten(), 2, 2), neg_ratio=2.0)
    positive = torch.tensor([True, False] * 3 + [False] * 10)
    drawn = strategy._drawn(positive)
    assert positive[drawn].sum() == 3 and len(drawn.unique()) == 9
    few = strategy._drawn(torch.tensor([True] * 5 + [False]))
    assert sorted(few.tolist()) == list(range(6))


def fingerprint(module: nn.Module) -> str:
    entries = module.state_dict()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in entries.values())).hexdigest()


def trained(**options: Any) -> Any:
    """After the first experience, with batch norm that has seen data."""
    net = Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU()), 8, 4)
    strategy = build("fetril", 4, net, **options)
    first = experience(0, [0, 1], images(0))
    strategy.prepare(first)
    strategy.loss(images(0))
    strategy.end(first)
    return strategy


def test_the_backbone_is_frozen() -> None:
    """Parameters and buffers, in train mode too; nothing is left to train."""
    strategy = trained()
    before = fingerprint(strategy.net.backbone)
    second = experience(1, [2, 3], images(1, (2, 3)))
    strategy.train().prepare(second)
    assert strategy.budget(second) == 0 and not list(strategy.trainable())
    strategy.net(images(1).x)
    strategy.end(second)
    assert fingerprint(strategy.net.backbone) == before
    kept = strategy.frozen_features()
    x = images(2).x
    assert kept is not None and not any(p.requires_grad for p in kept.module.parameters())
    same = kept.readouts["net"](kept.encode(x), None)
    assert torch.equal(same, strategy.predict(x, None))


def test_a_class_that_comes_again_has_the_mean_of_all_its_features() -> None:
    strategy = build("fetril", 2, Net(nn.Flatten(), 1, 2))
    strategy.end(experience(0, [0, 1], batch_of([[1.0], [2.0], [9.0]], [0, 0, 1])))
    strategy.end(experience(1, [0], batch_of([[6.0]], [0])))
    assert strategy.centroids.flatten().tolist() == pytest.approx([3.0, 9.0])
    assert strategy.counts.tolist() == [3, 1]


def request(classes: list[int], emptied: list[int], data: Batch | None = None) -> Experience:
    exp = experience(2, classes, data or Batch(*(t[:0] for t in images(0))))
    times = (1,) * len(exp.train)
    return dataclasses.replace(exp, kind="forget", emptied=tuple(emptied), times=times)


def test_a_withdrawn_class_is_dropped() -> None:
    strategy, batch = trained(), images(0)
    assert strategy.forget(request([0], [0]))
    assert strategy.counts[0] == 0 and not strategy.centroids[0].any()
    assert (strategy.predict(batch.x, None).argmax(1) == 1).all()


def test_part_of_a_class_is_taken_out_where_it_may_be_read() -> None:
    strategy, batch = trained(), images(0)
    mine = torch.nonzero(batch.y == 1).flatten()
    part = Batch(*(t[mine[:1]] for t in batch))
    before = strategy.counts.clone()
    assert not strategy.forget(request([1], []))  # unread: nothing can be done
    assert torch.equal(strategy.counts, before)
    assert not strategy.forget(request([1], [], part))
    rest = strategy.net.features(batch.x[mine[1:]]).double().mean(0)
    torch.testing.assert_close(strategy.centroids[1], rest)


def test_a_sample_that_came_twice_is_taken_out_twice() -> None:
    strategy = build("fetril", 2, Net(nn.Flatten(), 1, 2))
    batch = batch_of([[1.0], [2.0]], [0, 0])
    for index in (0, 1):
        strategy.end(experience(index, [0], batch))
    gone = Batch(*(t[1:] for t in batch))
    strategy.forget(dataclasses.replace(request([0], [], gone), times=(2,)))
    assert strategy.counts[0] == 2 and strategy.centroids[0] == 1.0


def test_scores_have_all_their_digits_under_autocast() -> None:
    strategy = trained()
    features = strategy.net.features(images(2).x)
    with torch.autocast("cpu", torch.bfloat16):
        found = strategy._classify(features)
    assert torch.equal(found, strategy._classify(features))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"selection": "herding"}, "selection: 'herding' is unknown; choose from k, rand, herd"),
        ({"metric": "l2"}, "metric: 'l2' is unknown"),
        ({"head": "svm"}, "head: 'svm' is unknown"),
        ({"k": 0}, "k: 0 is no rank"),
        ({"c": 0.0}, "c: 0.0 is out of range; give more than 0"),
        ({"head": "fc", "neg_ratio": 1.0}, "neg_ratio: 1.0 goes with head=svc"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("fetril", 4, small_net(), **options)
