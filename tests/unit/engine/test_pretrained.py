"""Pretrained weights without a network: one clear error at once, or what the hub's cache holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm as real_timm
import torch
from torch import nn

from clframe.config.schema import Net as NetConfig
from clframe.core.strategy import StreamInfo
from clframe.engine import nets
from clframe.errors import DataError
from tests.unit.strategies.methods import build

INFO = StreamInfo(2, 1, "class", (3, 8, 8))
CFG = NetConfig(name="timm:tiny", pretrained=True)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A timm of one model, whose weights are in the cache or nowhere (`cached`)."""
    made = SimpleNamespace(cached=False, offline=None, is_model=lambda name: name == "tiny")

    def create_model(name: str, pretrained: bool, **_: Any) -> nn.Module:
        made.offline = os.environ.get("HF_HUB_OFFLINE")
        if not made.cached:
            raise FileNotFoundError("not in the cache")
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))

    made.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", made)  # type: ignore[arg-type]
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")  # and whatever is set meanwhile is undone
    return made


def hub(monkeypatch: pytest.MonkeyPatch, why: str | None) -> list[str]:
    """The addresses that are asked for from now on; `why` is the answer."""
    asked: list[str] = []

    def answer(urls: Sequence[str]) -> str | None:
        asked.extend(urls)
        return why

    monkeypatch.setattr(nets, "unreachable", answer)
    return asked


def test_a_hub_that_is_away_is_not_waited_for(
    timm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub(monkeypatch, "away")
    with pytest.raises(DataError, match=r"net.pretrained: the weights of 'tiny' cannot be fetched"):
        nets.make_net(CFG, INFO, None, None)
    assert asked == ["https://huggingface.co"] and timm.offline == "1"
    timm.cached = True
    assert nets.make_net(CFG, INFO, None, None).backbone[1].out_features == 5


def test_a_hub_that_answers_is_used(timm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    asked = hub(monkeypatch, None)
    timm.cached = True
    nets.make_net(CFG, INFO, None, None)
    assert asked == ["https://mirror.example"] and timm.offline is None


def test_without_pretrained_weights_nobody_is_asked(
    timm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub(monkeypatch, "away")
    timm.cached = True
    nets.make_net(NetConfig(name="timm:tiny"), INFO, None, None)
    assert asked == [] and timm.offline is None


def test_weights_of_a_vision_transformer_fit_smaller_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a download would leave, from a file of our own: positions and patches are resampled."""
    model = real_timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    hub(monkeypatch, "away")
    args = {"patch_size": 4, "depth": 1, "pretrained_cfg_overlay": {"file": tmp_path / "vit.pth"}}
    cfg = NetConfig(name="timm:vit_tiny_patch16_224", pretrained=True, args=args)
    net = nets.make_net(cfg, StreamInfo(10, 5, "class", (3, 32, 32)), None, None)
    own, saved = net.backbone.state_dict(), model.state_dict()
    for name in ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.bias", "norm.weight"):
        assert torch.equal(own[name], saved[name])
    assert own["pos_embed"].shape == (1, 65, 192)
    assert build("ilora", 10, net).predict(torch.zeros(2, 3, 32, 32), None).shape == (2, 10)
