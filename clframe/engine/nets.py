"""From the configuration of a network to the network: our own, or one of timm's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clframe.config.schema import NETS, RunConfig
from clframe.config.schema import Net as NetConfig
from clframe.core.augment import standard_augmentation
from clframe.core.backbones import BACKBONES
from clframe.core.net import Net, evaluating, frozen_state, same_randomness
from clframe.core.strategy import StreamInfo
from clframe.errors import ClframeError, ConfigError, DataError, nearest
from clframe.sources.network import unreachable


def make_net(cfg: NetConfig, info: StreamInfo, mean: Any, std: Any) -> Net:
    """The configured network for inputs of `info.shape`, channels last where that is faster."""
    if cfg.name.startswith("timm:"):
        backbone, width = _timm(cfg, info.shape)
    elif cfg.name == "vit":
        backbone, width = _timm(_small_vit(cfg, info.shape), info.shape)
    elif cfg.name in BACKBONES:
        if cfg.pretrained:
            raise ConfigError(
                f"net.pretrained: {cfg.name!r} has no published weights; use net.name=timm:<model> "
                "or give a file with net.weights."
            )
        backbone, width = _call(cfg, lambda: BACKBONES[cfg.name](info.shape, **cfg.args))
    else:
        raise ConfigError(
            f"net.name: {cfg.name!r} is unknown.{nearest(cfg.name, NETS)} "
            f"Known: {', '.join(NETS)}, timm:<any timm model>."
        )
    if cfg.weights is not None:
        load_weights(backbone, Path(cfg.weights))
    net = Net(
        backbone,
        width,
        info.num_classes,
        head=cfg.head,
        growing=cfg.growing,
        frozen=cfg.freeze,
        augment=standard_augmentation(info.shape) if cfg.augment else None,
        mean=mean if cfg.normalise else None,
        std=std if cfg.normalise else None,
    )
    if channels_last(net):
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def try_net(cfg: RunConfig, net: Net, x: torch.Tensor) -> None:
    """One forward of raw inputs, leaving no trace. Raises ConfigError when the net cannot do it."""
    with torch.no_grad(), frozen_state(net), evaluating(net):
        try:
            net(x)
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"net: {cfg.net.name!r} with args {cfg.net.args} cannot take inputs of shape "
                f"{tuple(x.shape[1:])}: {error}"
            ) from error


def is_convolutional(module: nn.Module) -> bool:
    """Whether the module has 2-D convolutions."""
    return any(isinstance(m, nn.Conv2d) for m in module.modules())


def channels_last(module: nn.Module) -> bool:
    """Whether images and 4-D weights are held channels last: faster wherever it is safe.

    In that layout oneDNN corrupts the heap in the backward pass of a strided 1x1 convolution with
    fewer input channels than a vector holds (uxlfoundation/oneDNN#6035).
    """
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    unsafe = any(
        max(m.kernel_size) == 1 and max(m.stride) > 1 and m.in_channels < 16 for m in convolutions
    )
    return bool(convolutions) and not unsafe


def _call(cfg: NetConfig, make: Any) -> tuple[nn.Module, int]:
    try:
        made: tuple[nn.Module, int] = make()
    except ClframeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"net: {cfg.name!r} cannot be built: {error}") from error
    return made


def _timm(cfg: NetConfig, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    if cfg.pretrained:
        _ask_for_the_hub()
    with same_randomness():  # whatever is drawn by whoever is imported first
        import timm

    name = cfg.name.removeprefix("timm:")
    if not timm.is_model(name):
        known = timm.list_models()
        raise ConfigError(
            f"net.name: timm has no model {name!r}.{nearest(name, known)} "
            f"timm {timm.__version__} knows {len(known)} models."
        )
    if len(shape) != 3:
        raise ConfigError(f"net.name: {cfg.name!r} wants images, not inputs of shape {shape}.")
    args: dict[str, Any] = {"num_classes": 0, "in_chans": shape[0], **cfg.args}

    def make(**more: Any) -> nn.Module:
        try:
            built: nn.Module = timm.create_model(name, pretrained=cfg.pretrained, **args, **more)
        except (OSError, ImportError) as error:
            raise DataError(
                f"net.pretrained: the weights of {name!r} cannot be fetched "
                f"({type(error).__name__}). Download them where there is a network and give the "
                "file with net.weights, or set net.pretrained=false."
            ) from error
        return built

    def build() -> tuple[nn.Module, int]:
        try:
            model = make(img_size=shape[1:])  # vision transformers want to know
        except TypeError:
            model = make()
        model.eval()
        with torch.no_grad():  # num_features is not the output width of every timm model
            width = model(torch.zeros(1, *shape)).shape[1]
        return model.train(), width

    return _call(cfg, build)


def _small_vit(cfg: NetConfig, shape: tuple[int, ...]) -> NetConfig:
    """A vision transformer that a CPU can train: 4 x 4 patches, 4 blocks of width 64, 4 heads."""
    side = max(1, min(shape[1:]) // 4) if len(shape) == 3 else 1
    usual = {"patch_size": side, "embed_dim": 64, "depth": 4, "num_heads": 4}
    name = "timm:vit_tiny_patch16_224"
    return cfg.model_copy(update={"name": name, "args": usual | cfg.args})


def _ask_for_the_hub() -> None:
    """Let the hub's client look in its cache alone when the hub is away: it would try for a minute.

    The client reads this setting as it is imported.
    """
    if unreachable([os.environ.get("HF_ENDPOINT") or "https://huggingface.co"]):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Fill `backbone` from a state dict saved by torch, or from the last.ckpt of a run.

    Keys of a classifier head may be extra.

    Raises DataError when the file is missing or does not fit.
    """
    if not path.is_file():
        raise DataError(f"net.weights: {path} does not exist.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for files that are no checkpoint
        raise DataError(f"net.weights: {path} is not a state dict: {error}") from error
    if "strategy" in state:  # a run's checkpoint
        saved, prefix = state["strategy"], "net.backbone."
        state = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    wanted = backbone.state_dict()
    missing = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    if missing:
        raise DataError(
            f"net.weights: {path} does not fit: {len(missing)} of {len(wanted)} entries are "
            f"missing or of another shape, first {missing[0]!r}."
        )
    backbone.load_state_dict({k: state[k] for k in wanted})
