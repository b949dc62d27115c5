"""ER, ER-ACE, DER and DER++: every numeric example of their specification."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.net import Net
from clframe.core.rng import clock
from tests.unit.strategies.methods import batch_of, build, experience, images, small_net, step

ALL = ["replay", "er_ace", "der", "derpp"]


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {k: v.item() for k, v in terms.items()}


def close(value: float) -> Any:
    return pytest.approx(value, abs=2e-6)


def fill(strategy: Any, x: list[list[float]], y: list[int], **more: Tensor) -> None:
    old = batch_of(x, y, first=100)
    strategy.memory.add(**old._asdict(), **more)


# -- ER -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "new", "replay"),
    [
        ("sum", 1.313262, 0.410038),  # 1.723299 together
        ("concat", 1.313262 / 3, 0.410038 * 2 / 3),  # 0.711112: a mean over three rows
    ],
)
def test_er_example_1(variant: str, new: float, replay: float) -> None:
    strategy = build("replay", 2, variant=variant, replay_size=2)
    fill(strategy, [[2, 0], [0, 0]], [0, 1])
    terms = values(strategy.loss(batch_of([[0, 1]], [0])))
    assert terms == {"new": close(new), "replay": close(replay)}
    assert sum(terms.values()) == close(1.723299 if variant == "sum" else 0.711112)


def test_er_concat_is_the_mean_over_all_rows_of_one_forward() -> None:
    """With batch norm too: one forward of [x; x'], and its gradient."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU())
    net = Net(backbone, 5, 3)
    twin = copy.deepcopy(net)
    strategy = build("replay", 3, net, replay_size=4)
    x, y = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    fill(strategy, x[3:].tolist(), y[3:].tolist())
    terms = strategy.loss(batch_of(x[:3].tolist(), y[:3].tolist()))
    clock.set(0, 0)
    old = strategy.memory.sample(4)
    strategy_loss = terms["new"] + terms["replay"]
    loss = F.cross_entropy(twin(torch.cat([x[:3], old["x"]])), torch.cat([y[:3], old["y"]]))
    torch.testing.assert_close(strategy_loss, loss)
    strategy_loss.backward()
    loss.backward()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(net.state_dict(), twin.state_dict())  # batch norm's statistics


def test_er_beta_weighs_the_replay_term_of_sum() -> None:
    strategy = build("replay", 2, variant="sum", beta=0.5, replay_size=2)
    fill(strategy, [[2, 0], [0, 0]], [0, 1])
    terms = values(strategy.loss(batch_of([[0, 1]], [0])))
    assert terms == {"new": close(1.313262), "replay": close(0.205019)}


@pytest.mark.parametrize(("replay_size", "held", "drawn"), [(None, 9, 3), (5, 9, 5), (5, 2, 2)])
def test_er_draws_the_batch_size_unless_told(
    replay_size: int | None, held: int, drawn: int
) -> None:
    """Old rows cost ln 4 each, new ones nearly nothing: the replay term counts the old ones."""
    strategy = build("replay", 4, replay_size=replay_size)
    fill(strategy, [[0.0] * 4] * held, [1] * held)
    terms = values(strategy.loss(batch_of([[50, 0, 0, 0]] * 3, [0, 0, 0])))
    assert terms["replay"] == close(1.386294 * drawn / (3 + drawn))


# -- ER-ACE ---------------------------------------------------------------------


def ace(mask: str, num_classes: int, seen: list[int]) -> Any:
    strategy = build("er_ace", num_classes, mask=mask)
    strategy.seen[seen] = True
    strategy.prepare(experience(1, [0]))
    return strategy


@pytest.mark.parametrize(
    ("mask", "expected"), [("reference", 1.313262), ("clean", 1.313262), ("present", 0.0)]
)
def test_er_ace_example_2(mask: str, expected: float) -> None:
    strategy = ace(mask, 4, [0, 1, 2])
    batch = batch_of([[1, 2, 3, 4]], [2])
    assert values(strategy.loss(batch)) == {"new": close(expected)}
    strategy.prepare(experience(0, [0]))  # the first experience: no mask
    assert values(strategy.loss(batch)) == {"new": close(1.440190)}


@pytest.mark.parametrize(
    ("mask", "alone", "with_1"),
    [
        ("reference", 1.326563, 1.419717),
        ("clean", 0.048587, 0.349012),
        ("present", 0.0, 0.313262),
    ],
)
def test_er_ace_example_3(mask: str, alone: float, with_1: float) -> None:
    strategy = ace(mask, 5, [0, 1, 2, 3])
    logits = [1.0, 2, 3, 4, 0]
    assert values(strategy.loss(batch_of([logits], [2]))) == {"new": close(alone)}
    kept = strategy.kept(torch.tensor([1, 2]))
    masked = torch.tensor([logits]).masked_fill(~kept, -1e9)
    assert F.cross_entropy(masked, torch.tensor([2])).item() == close(with_1)
    both = strategy.loss(batch_of([logits, [0, 50.0, 0, 0, 0]], [2, 1]))["new"].item()
    assert 2 * both == close(with_1)


def test_er_ace_seen_grows_before_the_mask_is_made() -> None:
    strategy = ace("clean", 5, [0])
    assert strategy.kept(torch.tensor([3, 3])).tolist() == [False, True, True, True, True]
    assert strategy.kept(torch.tensor([1])).tolist() == [False, True, True, False, True]
    assert strategy.seen.tolist() == [True, True, False, True, False]
    quirk = ace("reference", 5, [0])
    assert quirk.kept(torch.tensor([3])).tolist() == [False, False, False, True, True]
    assert quirk.kept(torch.tensor([1])).tolist() == [False, True, False, True, True]


def test_er_ace_masks_only_the_incoming_loss() -> None:
    strategy = ace("clean", 4, [0, 1, 2])
    fill(strategy, [[1, 2, 3, 4]], [2])
    terms = values(strategy.loss(batch_of([[1, 2, 3, 4]], [2])))
    assert terms == {"new": close(1.313262), "replay": close(1.440190)}


def test_er_ace_replays_from_the_second_experience_on() -> None:
    batch = batch_of([[1, 2, 3, 4]], [2])
    for task_free, terms in ((False, {"new"}), (True, {"new", "replay"})):
        strategy = build("er_ace", 4, task_free=task_free)
        strategy.prepare(experience(0, [0, 1, 2]))
        strategy.seen[[0, 1]] = True
        assert values(strategy.loss(batch)) == {"new": close(1.440190)}  # an empty memory
        strategy.after_batch(batch)
        assert len(strategy.memory) == 1  # it is filled from the start
        got = values(strategy.loss(batch))
        assert set(got) == terms
        assert got["new"] == close(1.313262 if task_free else 1.440190)
        strategy.prepare(experience(1, [3]))
        assert set(strategy.loss(batch)) == {"new", "replay"}


# -- DER and DER++ --------------------------------------------------------------


def draws(strategy: Any, *rows: dict[str, Tensor]) -> None:
    """Let the memory draw `rows`, one after the other."""
    waiting: Iterator[dict[str, Tensor]] = iter(rows)
    strategy.memory.sample = lambda n, device=None: next(waiting)


A = {
    "x": torch.tensor([[1.0, 1, 0], [0, 0, 3]]),
    "logits": torch.tensor([[1.0, 0, 0], [0, 2, 3]]),
}
B = {"x": torch.tensor([[0.0, 1, 0]]), "y": torch.tensor([1])}


def test_derpp_example_5() -> None:
    strategy = build("derpp", 3, alpha=0.1, beta=0.5)
    draws(strategy, A, B)
    terms = values(strategy.loss(batch_of([[2, 0, 1]], [0])))
    assert terms["new"] == close(0.407606)
    assert terms["distil"] == close(0.1 * 0.833333)  # a sum over classes would give 0.25
    assert terms["replay"] == close(0.5 * 0.551445)
    assert sum(terms.values()) == close(0.766662)


def test_der_has_the_same_logit_term() -> None:
    strategy = build("der", 3, alpha=0.1)
    draws(strategy, A)
    terms = values(strategy.loss(batch_of([[2, 0, 1]], [0])))
    assert terms == {"new": close(0.407606), "distil": close(0.1 * 0.833333)}


def test_derpp_draws_twice() -> None:
    strategy = build("derpp", 3, replay_size=4)
    asked: list[tuple[int, list[int]]] = []
    sample = strategy.memory.sample

    def watch(n: int, device: Any = None) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = sample(n, device)
        asked.append((n, rows["uid"].tolist()))
        return rows

    fill(strategy, torch.randn(50, 3).tolist(), [0] * 50, logits=torch.randn(50, 3))
    strategy.memory.sample = watch
    strategy.loss(batch_of([[2, 0, 1]], [0]))
    assert [n for n, _ in asked] == [4, 4] and asked[0][1] != asked[1][1]


def weights_after(name: str, steps: int, **options: Any) -> Any:
    strategy = build(name, 4, small_net(), **options)
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1, momentum=0.9)
    for e in range(2):
        strategy.prepare(experience(e, (2 * e, 2 * e + 1)))
        for s in range(e * steps, (e + 1) * steps):
            step(strategy, optimizer, s, images(s, (2 * e, 2 * e + 1)))
    return {k: v.clone() for k, v in strategy.net.state_dict().items()}


@pytest.mark.parametrize("name", ALL)
def test_example_7_first_step_is_plain_sgd(name: str) -> None:
    strategy = build(name, 4, small_net(dropout=False))
    reference = small_net(dropout=False)
    strategy.prepare(experience(0, [0, 1]))
    batch = images(0)
    clock.set(0, 0)
    view = reference.augment(batch.x)
    before = reference(view)
    step(strategy, torch.optim.SGD(strategy.trainable(), lr=0.1), 0, batch)
    F.cross_entropy(before, batch.y).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    for a, b in zip(strategy.net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    assert not torch.equal(view, batch.x)
    assert torch.equal(strategy.memory.column("x"), batch.x)  # raw, uint8, not the augmented view
    assert strategy.memory.column("x").dtype == torch.uint8
    for column in ("y", "task", "uid"):
        assert torch.equal(strategy.memory.column(column), getattr(batch, column))
    if name.startswith("der"):
        assert torch.equal(strategy.memory.column("logits"), before.detach())
        assert not torch.equal(strategy.memory.column("logits"), strategy.net(view))


@pytest.mark.parametrize(
    ("name", "options"), [("der", {"alpha": 0.0}), ("derpp", {"alpha": 0.0, "beta": 0.0})]
)
def test_example_8_without_weights_it_is_fine_tuning(name: str, options: dict[str, float]) -> None:
    """Bit for bit, with dropout, momentum and augmentation; and not so with the weights."""
    plain = weights_after("fine_tune", 5)
    same = weights_after(name, 5, **options)
    assert all(torch.equal(plain[k], same[k]) for k in plain)
    other = weights_after(name, 5)
    assert not all(torch.equal(plain[k], other[k]) for k in plain)
