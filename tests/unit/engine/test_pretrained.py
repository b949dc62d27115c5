"""Pretrained weights without a network: one clear error at once, or what the hub's cache holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from clframe.config.schema import Net as NetConfig
from clframe.core.strategy import StreamInfo
from clframe.engine import nets
from clframe.errors import DataError

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
