"""From a checked config to live objects: stream, strategy, device; with `nets` the only factory."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clframe.config.resolve import resolve_options, scenario_arguments
from clframe.config.schema import RunConfig
from clframe.core.buffer import ReplayBuffer
from clframe.core.experience import Stream
from clframe.core.norms import synchronise
from clframe.core.rng import clock
from clframe.core.strategy import Strategy, StreamInfo
from clframe.data.stream import build_stream, splice
from clframe.engine.nets import make_net, try_net
from clframe.errors import ClframeError, ConfigError, DataError


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
        return splice(stream, cfg.request_list())


def assemble(
    cfg: RunConfig, stream: Stream, backbone: Mapping[str, Tensor] | None = None
) -> Strategy:
    """The strategy of a run over `stream`, which its network has been tried on.

    backbone: the state that its backbone starts from.
    """
    check_budget(cfg, stream)
    with building(cfg.strategy):
        strategy = make_strategy(cfg, stream_info(stream), stream.mean, stream.std, backbone)
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


def make_strategy(
    cfg: RunConfig,
    info: StreamInfo,
    mean: Any,
    std: Any,
    backbone: Mapping[str, Tensor] | None = None,
) -> Strategy:
    """The strategy chain with its network attached, initialised by the run's seed alone.

    `mean` and `std` are the stream's pixel statistics, or None. `backbone`: as of `assemble`.
    """
    clock.set(cfg.seed, 0, "build")
    net = make_net(cfg.net, info, mean, std)
    if backbone is not None:
        net.backbone.load_state_dict(backbone)
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
