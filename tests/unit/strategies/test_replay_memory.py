"""What ER, ER-ACE, DER and DER++ keep and draw, how they view it, and the options they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clframe.errors import ConfigError
from tests.unit.strategies.methods import build, experience, images, small_net, step

ALL = ["replay", "er_ace", "der", "derpp"]


@pytest.mark.parametrize("name", ALL)
def test_a_step_never_replays_its_own_batch(name: str) -> None:
    strategy = build(name, 4, small_net(), capacity=100)
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1)
    sample, drawn = strategy.memory.sample, []

    def watch(n: int, device: Any = None) -> Any:
        rows = sample(n, device)
        drawn.extend([] if rows is None else rows["uid"].tolist())
        return rows

    strategy.memory.sample = watch
    strategy.prepare(experience(1, [0, 1]))
    for number in range(4):
        drawn.clear()
        batch = images(number)
        step(strategy, optimizer, number, batch)
        assert not set(drawn) & set(batch.uid.tolist())
        assert bool(drawn) == (number > 0)
        assert len(strategy.memory) == 6 * (number + 1)


@pytest.mark.parametrize("name", ALL)
def test_replayed_rows_are_augmented_afresh(name: str) -> None:
    strategy = build(name, 4, small_net(dropout=False), capacity=6)
    seen: list[Tensor] = []
    augment = strategy.net.augment

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            out: Tensor = augment(x)
            return out

    strategy.prepare(experience(1, [0, 1]))
    step(strategy, torch.optim.SGD(strategy.trainable(), lr=0.1), 0, images(0))
    strategy.net.augment = Watch()
    strategy.loss(images(1))
    raw = {tuple(row.flatten().tolist()) for row in images(0).x}
    assert len(seen) == (3 if name == "derpp" else 2)
    assert torch.equal(seen[0], images(1).x)
    for rows in seen[1:]:
        assert {tuple(row.flatten().tolist()) for row in rows} == raw


@pytest.mark.parametrize("name", ["der", "derpp"])
def test_outputs_of_a_growing_head_count_as_zero_until_they_open(name: str) -> None:
    strategy = build(name, 4, small_net(growing=True, dropout=False), alpha=1.0)
    optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1)
    strategy.prepare(experience(0, [0, 1]))
    step(strategy, optimizer, 0, images(0))
    held = strategy.memory.column("logits")
    assert (held[:, 2:] == 0).all() and (held[:, :2] != 0).all()
    assert strategy.loss(images(1))["distil"] < 10
    strategy.prepare(experience(1, [2, 3]))
    strategy.eval()  # no augmentation: the logits of the stored rows can be had again
    expected = (strategy.net(strategy.memory.column("x")) - held).square().mean()
    strategy.net.augment = nn.Identity()
    torch.testing.assert_close(strategy.loss(images(1, (2, 3)))["distil"], expected)


# -- options ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option", "value", "hint"),
    [
        ("replay", "capacity", 0, "1 or more"),
        ("replay", "replay_size", 0, "1 or more"),
        ("replay", "variant", "joint", "concat, sum"),
        ("replay", "beta", -0.5, "0 or more"),
        ("replay", "policy", "fifo", "reservoir, class_balanced"),
        ("er_ace", "capacity", -1, "1 or more"),
        ("er_ace", "replay_size", -2, "1 or more"),
        ("er_ace", "mask", "seen", "clean, reference, present"),
        ("der", "alpha", -1.0, "0 or more"),
        ("der", "alpha", float("nan"), "0 or more"),
        ("der", "replay_size", 0, "1 or more"),
        ("der", "capacity", 0, "1 or more"),
        ("derpp", "alpha", -1.0, "0 or more"),
        ("derpp", "beta", -1.0, "0 or more"),
        ("derpp", "replay_size", 0, "1 or more"),
        ("derpp", "capacity", 0, "1 or more"),
    ],
)
def test_bad_options_name_themselves(name: str, option: str, value: object, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, 2, **{option: value})
    message = str(caught.value)
    assert message.startswith(f"{option}: {value!r} ") and hint in message
