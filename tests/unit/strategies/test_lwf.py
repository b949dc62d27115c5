"""LwF against distillation terms worked out by hand, and its frozen teacher."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from clframe.core.net import Net
from clframe.core.rng import clock
from clframe.errors import ConfigError
from tests.unit.strategies.methods import batch_of, build, experience

LN2, LN3 = math.log(2), math.log(3)


def second(**options: Any) -> Any:
    """Three classes, logits = inputs; 0 and 1 were learned, now comes 2."""
    strategy = build("lwf", 3, **options)
    strategy.prepare(experience(0, [0, 1]))
    strategy.end(experience(0, [0, 1]))
    strategy.prepare(experience(1, [2]))
    return strategy


def scale(strategy: Any, by: float) -> None:
    """The student's logits become `by` times its inputs; the teacher's stay."""
    with torch.no_grad():
        strategy.net.get_parameter("head.weight").mul_(by)


def test_the_first_experience_is_plain() -> None:
    strategy = build("lwf", 3)
    strategy.prepare(experience(0, [0, 1]))
    terms = strategy.loss(batch_of([[0, 0, 0]], [1]))
    assert {k: v.item() for k, v in terms.items()} == {"new": pytest.approx(LN3)}


def test_distillation_by_hand() -> None:
    """Teacher (2 ln 3, 0 | 5): over the old classes, at T = 2, softmax (ln 3, 0) = (3/4, 1/4).

    The student, whose weights are zero now, says (1/2, 1/2): H = ln 2. With weights kept,
    H = -3/4 ln(3/4) - 1/4 ln(1/4) = 0.562335. Class 2 takes no part. With weights doubled the
    student says (9/10, 1/10): H = -3/4 ln(9/10) - 1/4 ln(1/10) = 0.654667.
    """
    batch = batch_of([[2 * LN3, 0.0, 5.0]], [2])
    for by, expected in ((0.0, LN2), (1.0, 0.562335), (2.0, 0.654667)):
        strategy = second()
        scale(strategy, by)
        assert strategy.loss(batch)["distil"].item() == pytest.approx(expected, abs=2e-6)


def test_new_term_is_cross_entropy_over_all_outputs() -> None:
    terms = second().loss(batch_of([[1, 2, 3]], [2]))
    assert terms["new"].item() == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_alpha_weighs_the_distillation(alpha: float) -> None:
    strategy = second(alpha=alpha)
    scale(strategy, 0.0)
    distil = strategy.loss(batch_of([[2 * LN3, 0.0, 5.0]], [2]))["distil"].item()
    assert distil == pytest.approx(alpha * LN2, rel=1e-5)


def test_temperature_softens_both() -> None:
    """At T = 1 the teacher's (2 ln 3, 0) is (9/10, 1/10), also the student's: its entropy."""
    distil = second(temperature=1.0).loss(batch_of([[2 * LN3, 0.0, 5.0]], [2]))["distil"].item()
    assert distil == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1), rel=1e-5)


def test_gradient_by_hand() -> None:
    """d H / d logit = (student - teacher) / T on old classes: (1/2 - 3/4) / 2; none on the new."""
    strategy = second()
    scale(strategy, 0.0)
    strategy.loss(batch_of([[2 * LN3, 0.0, 5.0]], [2]))["distil"].backward()
    gradient = strategy.net.get_parameter("head.bias").grad
    torch.testing.assert_close(gradient, torch.tensor([-0.125, 0.125, 0.0]))


def test_distillation_is_a_mean_over_rows() -> None:
    strategy = second()
    scale(strategy, 0.0)
    rows = [[2 * LN3, 0.0, 5.0], [0.0, 0.0, 1.0], [9.0, -9.0, 0.0]]  # a flat student: ln 2 each
    distil = strategy.loss(batch_of(rows, [2, 2, 2]))["distil"].item()
    assert distil == pytest.approx(LN2, rel=1e-5)


def noisy_net(growing: bool = False) -> Net:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5)]
    return Net(nn.Sequential(*layers), 6, 4, growing=growing, augment=Blink())


class Blink(nn.Module):
    """An augmentation that is never the same twice and records its views."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.views.append(x + torch.randn(x.shape))
        return self.views[-1]


def test_teacher_is_frozen_in_eval_mode_and_sees_the_same_view() -> None:
    strategy = build("lwf", 4, noisy_net())
    strategy.prepare(experience(0, [0, 1]))
    strategy.end(experience(0, [0, 1]))
    strategy.prepare(experience(1, [2, 3]))
    strategy.train()
    teacher, seen = strategy.teacher, []
    teacher.register_forward_hook(lambda module, args, out: seen.append((module.training, *args)))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        sum(
            strategy.loss(batch_of(torch.randn(5, 3).tolist(), [2, 3, 2, 3, 2])).values()
        ).backward()
        optimizer.step()
    views = strategy.net.augment.views
    assert len(views) == len(seen) == 3
    assert all(not mode and view is x for (mode, x), view in zip(seen, views, strict=True))
    assert teacher.training and teacher.backbone[1].training  # as the loop had set it
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    mine = {id(p) for p in strategy.trainable()}
    assert mine == {id(p) for p in strategy.net.parameters()}
    assert not torch.equal(strategy.net.head.weight, teacher.head.weight)


def test_old_classes_are_those_seen_before_this_experience() -> None:
    strategy = second()
    assert strategy.seen.tolist() == [True, True, False]
    strategy.end(experience(1, [2]))
    assert strategy.seen.tolist() == [True, True, True]
    scale(strategy, 2.0)
    strategy.prepare(experience(2, [0, 1, 2]))  # domain-incremental from here: all are old
    teacher = strategy.teacher.get_parameter("head.weight")
    assert torch.equal(teacher, 2 * torch.eye(3))  # the newest net
    flat = strategy.loss(batch_of([[0, 0, 0]], [2]))["distil"].item()
    assert flat == pytest.approx(LN3, rel=1e-5)


def test_growing_head_distils_what_the_teacher_had_open() -> None:
    strategy = build("lwf", 4, noisy_net(growing=True))
    strategy.prepare(experience(0, [0, 1]))
    strategy.end(experience(0, [0, 1]))
    strategy.prepare(experience(1, [2]))
    assert strategy.teacher.opened.tolist() == [True, True, False, False]
    assert strategy.net.opened.tolist() == [True, True, True, False]
    terms = strategy.loss(batch_of(torch.randn(5, 3).tolist(), [2] * 5))
    assert all(0 < v.item() < 10 for v in terms.values())


def test_a_resume_inside_an_experience_brings_the_teacher_back() -> None:
    strategy = second()
    scale(strategy, 3.0)  # trained a little since
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    again = build("lwf", 3)
    for index, classes in enumerate(([0, 1], [2])):  # `end` does not run again
        clock.set(0, index, "prepare")
        again.prepare(experience(index, classes))
    again.load_state_dict(torch.load(file, weights_only=True))
    batch = batch_of([[2 * LN3, 0.0, 5.0]], [2])
    for key, value in strategy.loss(batch).items():
        assert torch.equal(value, again.loss(batch)[key])
    assert torch.equal(again.teacher.get_parameter("head.weight"), torch.eye(3))


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("alpha", -1.0, "0 or more"),
        ("alpha", float("nan"), "0 or more"),
        ("temperature", 0.0, "more than 0"),
        ("temperature", -2.0, "more than 0"),
    ],
)
def test_bad_options_name_themselves(option: str, value: object, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("lwf", 2, **{option: value})
    assert str(caught.value).startswith(f"{option}: {value!r} ") and hint in str(caught.value)
