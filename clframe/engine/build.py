"""From a checked config to live objects: stream, network, strategy; the only factory."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clframe.config.resolve import resolve_options, scenario_arguments
from clframe.config.schema import Net as NetConfig
from clframe.config.schema import RunConfig
from clframe.core.augment import standard_augmentation
from clframe.core.backbones import BACKBONES
from clframe.core.buffer import ReplayBuffer
from clframe.core.experience import Stream
from clframe.core.net import Net, evaluating, frozen_state
from clframe.core.norms import synchronise
from clframe.core.rng import clock
from clframe.core.strategy import Strategy, StreamInfo
from clframe.data.stream import build_stream, splice
from clframe.errors import ClframeError, ConfigError, DataError, nearest
from clframe.sources.network import unreachable


@contextmanager
def building(part: str) -> Iterator[None]:
    """Name the part of the configuration in whatever goes wrong while it is built: ConfigError."""
    try:
        yield
    except ClframeError as error:
        if part in str(error):
            raise
        raise ConfigError(f"{part}: {error}") from error
    except Exception as error:  # plug-ins are other people's code
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"({last.filename}, line {last.lineno})"
        raise ConfigError(f"{part}: {type(error).__name__}: {error} {where}") from error


def make_stream(cfg: RunConfig) -> Stream:
    """The scenario's stream with the run's requests spliced in."""
    if cfg.data.root is not None and not Path(cfg.data.root).expanduser().is_dir():
        raise DataError(f"data.root: {cfg.data.root!r} is no folder; mend it, or leave it out.")
    with building(cfg.scenario):
        (choice,) = resolve_options(cfg, "scenario")
        arguments = scenario_arguments(cfg)
        choice.plugin.check_call(arguments)
        scenario = choice.plugin.load()(**arguments)
        stream = build_stream(cfg.scenario, scenario, split=cfg.eval.split)
        if stream.online and cfg.epochs > 1:
            raise ConfigError(
                f"epochs: {cfg.epochs} passes over an online stream ({cfg.scenario}); "
                "set epochs=1, or options." + cfg.scenario + ".online=false."
            )
        requests = cfg.request_list()
        return splice(stream, requests and [r.model_dump(exclude_none=True) for r in requests])


def assemble(cfg: RunConfig, stream: Stream) -> Strategy:
    """The strategy of a run over `stream`, which its network has been tried on."""
    check_budget(cfg, stream)
    with building(cfg.strategy):
        strategy = make_strategy(cfg, stream_info(stream), stream.mean, stream.std)
        try_net(cfg, strategy.net, stream.learned[0].train.x[:1])
    return strategy


def check_budget(cfg: RunConfig, stream: Stream) -> None:
    """Raise ConfigError when the evaluation budget leaves nothing for some experience."""
    if cfg.eval.budget is not None and cfg.eval.budget < len(stream.learned):
        raise ConfigError(
            f"eval.budget: {cfg.eval.budget} samples leave none for some of the "
            f"{len(stream.learned)} experiences; give at least {len(stream.learned)}."
        )


def stream_info(stream: Stream) -> StreamInfo:
    """What strategies may know of `stream` in advance."""
    return StreamInfo(stream.num_classes, len(stream), stream.setting, stream.shape)


def make_strategy(cfg: RunConfig, info: StreamInfo, mean: Any, std: Any) -> Strategy:
    """The strategy chain with its network attached, initialised by the run's seed alone.

    `mean` and `std` are the stream's pixel statistics, or None.
    """
    clock.set(cfg.seed, 0, "build")
    net = make_net(cfg.net, info, mean, std)
    if cfg.world > 1 and cfg.net.batch_norm == "sync":
        synchronise(net)
    built: Any = None
    for choice in reversed(resolve_options(cfg, "strategy")):
        choice.plugin.check_call(choice.options)
        wrap = choice.plugin.load()
        inner = () if built is None else (built,)
        built = wrap(*inner, **choice.options)
    if not isinstance(built, Strategy):
        raise ConfigError(
            f"strategy: {cfg.strategy!r} is a {type(built).__name__}, not a clframe Strategy; "
            "derive its class from clframe.api.Strategy."
        )
    for memory in built.modules():
        if isinstance(memory, ReplayBuffer):
            memory.sharded = cfg.memory == "sharded"
    built.attach(net, info)
    return built.double() if cfg.precision == "64" else built


def make_net(cfg: NetConfig, info: StreamInfo, mean: Any, std: Any) -> Net:
    """The configured network for inputs of `info.shape`, channels last where that is faster."""
    if cfg.name.startswith("timm:"):
        backbone, width = _timm(cfg, info.shape)
    elif cfg.name in BACKBONES:
        if cfg.pretrained:
            raise ConfigError(
                f"net.pretrained: {cfg.name!r} has no published weights; use net.name=timm:<model> "
                "or give a file with net.weights."
            )
        backbone, width = _call(cfg, lambda: BACKBONES[cfg.name](info.shape, **cfg.args))
    else:
        raise ConfigError(
            f"net.name: {cfg.name!r} is unknown.{nearest(cfg.name, BACKBONES)} "
            f"Known: {', '.join(BACKBONES)}, timm:<any timm model>."
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


def _ask_for_the_hub() -> None:
    """Let the hub's client look in its cache alone when the hub is away: it would try for a minute.

    The client reads this setting as it is imported.
    """
    if unreachable([os.environ.get("HF_ENDPOINT") or "https://huggingface.co"]):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Fill `backbone` from a state dict saved by torch; keys of a classifier head may be extra.

    Raises DataError when the file is missing or does not fit.
    """
    if not path.is_file():
        raise DataError(f"net.weights: {path} does not exist.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for files that are no checkpoint
        raise DataError(f"net.weights: {path} is not a state dict: {error}") from error
    wanted = backbone.state_dict()
    missing = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    if missing:
        raise DataError(
            f"net.weights: {path} does not fit: {len(missing)} of {len(wanted)} entries are "
            f"missing or of another shape, first {missing[0]!r}."
        )
    backbone.load_state_dict({k: state[k] for k in wanted})


def resolve_device(cfg: RunConfig) -> torch.device:
    """The device of this process. Raises ConfigError when the asked one is not there."""
    cuda = torch.cuda.is_available()
    if cfg.accelerator == "gpu" and not cuda:
        raise ConfigError("accelerator: 'gpu' is not available here; use accelerator=auto or cpu.")
    if cfg.accelerator == "cpu" or not cuda:
        if cfg.eval.mode == "graph":
            raise ConfigError("eval.mode: 'graph' needs a CUDA device; use eval.mode=auto.")
        return torch.device("cpu")
    if cfg.devices > torch.cuda.device_count():
        raise ConfigError(
            f"devices: {cfg.devices} asked for, {torch.cuda.device_count()} GPUs here."
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
