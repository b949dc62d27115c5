"""Lower precision changes the arithmetic, never which weights an update starts from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clframe.config.schema import Optim
from clframe.core.net import Net
from clframe.core.strategy import Strategy, StreamInfo
from clframe.data import loader
from clframe.data.loader import ForgetLoader
from clframe.engine.module import ContinualModule, Position
from clframe.engine.optim import Schedule
from clframe.engine.run import run_cell
from tests.conftest import MakeCell
from tests.contract.harness import tiny_stream


def test_each_update_reads_the_weights_of_the_one_before(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for size in (1, 64):  # updates inside one autocast context, which would cache the weights
        monkeypatch.setattr(loader, "BLOCK", size)
        words = ("strategy=replay", "precision=bf16", "optim.lr=0.2")
        store = make_cell(*words, name=f"blocks of {size}")
        assert run_cell(store.folder) == 0
        state = torch.load(store.checkpoint_path, weights_only=True)["strategy"]
        weights.append(state["net.head.weight"])
    assert torch.equal(*weights)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_gradients_are_unscaled_before_anybody_sees_them(scale: float | None) -> None:
    """What float16 needs: the hook, and the clipping, must not see the scaler's factor."""
    seen: list[Tensor] = []

    class Curious(Strategy):
        def after_backward(self) -> None:
            seen.append(self.net.head.weight.grad.clone())

    strategy, exp = Curious(), tiny_stream().experiences[0]
    net = Net(nn.Flatten(), 2, 2)
    strategy.attach(net, StreamInfo(2, 1, "class", (2,)))
    module = ContinualModule(
        strategy,
        exp,
        ForgetLoader(exp.train, 4, 1, seed=0, key=0),
        Position(local=1),
        SimpleNamespace(),
        epochs=1,
        seed=0,
        make_optimizer=lambda _: torch.optim.SGD(strategy.parameters(), lr=1.0),
        schedule=Schedule(Optim()),
        clip=0.5,
        average_norms=False,
    )
    module.configure_optimizers()
    plugin: Any = SimpleNamespace(scaler=None)
    if scale is not None:
        plugin.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module.plugin = plugin
    nothing = SimpleNamespace(pre_backward=lambda loss: None)
    module.trainer = SimpleNamespace(strategy=nothing, barebones=False)  # type: ignore[assignment]
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert module._step({"new": net(torch.tensor([[3.0, 4.0]]))[0, 0]})
    assert torch.equal(seen[0], torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    moved = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert moved.norm() == pytest.approx(0.5, rel=1e-4)
    if scale is not None:  # an overflow: no weight moves, and nobody is told of a step
        assert not module._step({"new": net(torch.tensor([[3.0, 4.0]]))[0, 0] * torch.inf})
        same = torch.cat([p.detach().flatten() for p in net.parameters()])
        assert torch.equal(moved, same)
