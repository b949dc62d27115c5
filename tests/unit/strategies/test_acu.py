"""Analytic unlearning against retraining on what is left, and every request it refuses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.experience import Batch, Experience
from clframe.core.net import CLOSED, Net
from clframe.core.rng import clock
from clframe.errors import ConfigError, DataError
from tests.unit.strategies.methods import batch_of, build, experience, images, small_net

forms = pytest.mark.parametrize("form", ["moments", "inverse"])


def plain(num_features: int, num_classes: int, **options: Any) -> Any:
    """Features are the inputs; in double precision."""
    return build("acu", num_classes, Net(nn.Flatten(), num_features, num_classes), **options)


def table(n: int = 40, d: int = 6, first: int = 0) -> Batch:
    g = torch.Generator().manual_seed(first)
    y = torch.arange(n) % 3
    return Batch(torch.randn(n, d, generator=g), y, torch.zeros_like(y), torch.arange(n) + first)


def some(batch: Batch, rows: Sequence[int] | Tensor) -> Batch:
    index = torch.as_tensor(rows)
    return Batch(*(t[index] for t in batch))


def request(batch: Batch, times: Sequence[int] | None = None) -> Experience:
    exp = experience(3, batch.y.unique().tolist(), batch)
    times = tuple(times or (1,) * len(batch.y))
    return dataclasses.replace(exp, kind="forget", times=times)


def learned(strategy: Any, *batches: Batch) -> Any:
    for batch in batches:
        assert strategy.loss(batch) == {}
        strategy.after_batch(batch)
    return strategy


def logits(strategy: Any, x: Tensor) -> Tensor:
    return strategy.eval().predict(x, None)


@forms
def test_forgetting_equals_retraining_on_the_rest(form: str) -> None:
    every = table()
    gone, kept = torch.arange(10, 20), torch.cat([torch.arange(10), torch.arange(20, 40)])
    strategy = learned(plain(6, 3, form=form), every)
    assert strategy.forget(request(some(every, gone)))
    again = learned(plain(6, 3, form=form), some(every, kept))
    x = table(50, first=100).x
    assert (logits(strategy, x) - logits(again, x)).abs().max() < 1e-8
    assert strategy.learned == again.learned and torch.equal(strategy.counts, again.counts)
    learned(strategy, some(every, gone))
    assert strategy.learned == dict.fromkeys(range(40), 1)
    assert strategy.counts.tolist() == [14, 13, 13]


@forms
def test_a_forgotten_class_is_closed(form: str) -> None:
    """Its logit is 0 and all others are negative: it would win."""
    batch = batch_of([[1.0], [2.0], [-1.0]], [0, 1, 2])
    strategy = learned(plain(1, 3, form=form, gamma=1.0), batch)
    strategy.forget(dataclasses.replace(request(some(batch, [2])), emptied=(2,)))
    x = torch.tensor([[-1.0]])
    found = logits(strategy, x)[0]
    assert found[2] == CLOSED and int(found.argmax()) == 0
    assert not strategy.ridge.weight[:, 2].any() and strategy.counts.tolist() == [1, 1, 0]
    learned(strategy, some(batch, [2]))
    assert logits(strategy, x)[0, 2] > CLOSED


def test_classes_that_have_not_come_are_closed() -> None:
    strategy = learned(plain(6, 5), table())
    found = logits(strategy, table().x)
    assert (found[:, 3:] == CLOSED).all() and (found[:, :3] > CLOSED).all()


@forms
def test_after_everything_is_forgotten_nothing_is_left(form: str) -> None:
    every = table()
    strategy = learned(plain(6, 3, form=form), every)
    strategy.forget(request(every))
    new, state = plain(6, 3, form=form).state_dict(), strategy.state_dict()
    assert all(torch.equal(state[key], value) for key, value in new.items())


@forms
def test_a_sample_that_came_twice_is_taken_out_twice(form: str) -> None:
    every = table()
    strategy = learned(plain(6, 3, form=form), every, some(every, [4, 5]))
    strategy.forget(request(some(every, [4, 7]), times=(2, 1)))
    kept = [i for i in range(40) if i not in (4, 7)]
    again = learned(plain(6, 3, form=form), some(every, kept), some(every, [5]))
    assert (strategy.ridge.weight - again.ridge.weight).abs().max() < 1e-8
    assert strategy.learned == again.learned and strategy.learned[5] == 2


@pytest.mark.parametrize("times", [(1,), (2,)])
def test_what_was_never_learned_is_refused(times: tuple[int, ...]) -> None:
    """By its id, though its row alone would pass: it is small, or there is another like it."""
    every = table()
    strategy = learned(plain(6, 3), every)
    before = copy.deepcopy(strategy.state_dict())
    odd = some(every, [0]) if times == (2,) else some(table(first=500), [0])
    with pytest.raises(DataError, match=r"sample \d+ was learned [01] times"):
        strategy.forget(request(odd, times))
    after = strategy.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_request_has_to_hand_its_data_over() -> None:
    strategy = learned(plain(6, 3), table())
    empty = request(Batch(*(t[:0] for t in table())))
    for ask in (strategy.budget, strategy.forget):
        with pytest.raises(ConfigError, match="forget_data=true"):
            ask(empty)
    assert strategy.budget(request(some(table(), [1]))) is None
    assert strategy.budget(experience(0, [0], table())) == 1


def test_the_backbone_is_frozen_and_never_augments() -> None:
    net = small_net(dropout=True)
    strategy = build("acu", 4, net).train()
    assert not list(strategy.trainable())
    for _ in range(2):  # in train mode, after other draws
        learned(strategy, images(0))
    x = net.features(images(0).x).double()
    torch.testing.assert_close(strategy.ridge.gram, 2 * (x.T @ x), rtol=1e-12, atol=1e-12)
    assert strategy.training
    strategy.forget(request(images(0), (2,) * 6))
    assert not strategy.ridge.weight.any()


def test_rows_are_the_same_under_autocast() -> None:
    strategies = [build("acu", 4, small_net()) for _ in range(2)]
    learned(strategies[0], images(0))
    with torch.autocast("cpu", torch.bfloat16):
        learned(strategies[1], images(0))
        found = logits(strategies[1], images(1).x)
    assert torch.equal(strategies[0].ridge.gram, strategies[1].ridge.gram)
    assert torch.equal(found, logits(strategies[0], images(1).x))


def test_the_expansion_is_drawn_by_the_seed_alone() -> None:
    def made(seed: int, **options: Any) -> Any:
        strategy = plain(6, 3, expansion=20, **options)
        clock.set(seed, 0, "build")
        strategy.attach(Net(nn.Flatten(), 6, 3), strategy.info)
        return learned(strategy, table())

    one, again, other = made(1), made(1, form="inverse"), made(2)
    basis = one.expand.basis
    assert basis.shape == (6, 20) and basis.abs().max() <= 6**-0.5
    assert torch.equal(basis, again.expand.basis) and not torch.equal(basis, other.expand.basis)
    rows = F.relu(table().x @ basis).double()
    assert torch.allclose(one.ridge.gram, rows.T @ rows)
    assert (one.ridge.weight - again.ridge.weight).abs().max() < 1e-8


def test_kept_features_give_the_same_logits() -> None:
    for options in ({}, {"expansion": 16}):
        strategy = learned(build("acu", 4, small_net(), **options), images(0)).eval()
        kept, x = strategy.frozen_features(), images(1).x
        assert not any(p.requires_grad for p in kept.module.parameters())
        same = kept.readouts["net"](kept.encode(x), None)
        assert torch.equal(same, strategy.predict(x, None))


def test_the_state_is_double_in_any_precision_and_comes_back() -> None:
    strategy = learned(plain(6, 3).double().float(), table())
    assert strategy.ridge.gram.dtype == torch.float64
    state = strategy.state_dict()
    again = plain(6, 3).float()
    again.load_state_dict(state)
    x = table(9, first=50).x
    assert torch.equal(logits(again, x), logits(strategy, x)) and again.learned == strategy.learned
    again.forget(request(some(table(), [3])))


def test_ranks_that_share_a_batch_learn_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank brings its rows and gets those of all: none is repeated to make shares even."""
    every = table(7)
    strategy = plain(6, 3)
    halves = [some(every, range(4)), some(every, range(4, 7))]
    other = {id(halves[0].y): halves[1].y, id(halves[0].uid): halves[1].uid}

    def gather(rows: Tensor, of: Tensor | None = None) -> Tensor:
        return torch.cat([rows, other.get(id(rows), halves[1].x)])

    monkeypatch.setitem(type(strategy).loss.__globals__, "gather", gather)
    learned(strategy, halves[0])
    single = learned(plain(6, 3), every)
    assert (strategy.ridge.gram - single.ridge.gram).abs().max() < 1e-10
    assert strategy.learned == single.learned and int(strategy.ridge.num) == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 0.0}, "gamma: 0.0 is out of range; give more than 0"),
        ({"expansion": 0}, "expansion: 0 is out of range; give 1 or more"),
        ({"form": "both"}, "form: 'both' is unknown; choose from moments, inverse"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plain(6, 3, **options)
