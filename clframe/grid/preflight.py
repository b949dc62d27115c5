"""Every distinct cell built once, untrained, before any starts: what cannot work is told first."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence

from clframe.config.identity import resolved
from clframe.config.resolve import resolve_options
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError, ConfigError
from clframe.grid.launch import ask
from clframe.registry import snapshot

SILENT = {"seed", "track", "checkpoint", "deterministic"}


def preflight(cells: Sequence[RunConfig]) -> None:
    """Raise one error that says all that is wrong with the plug-ins and data of `cells`.

    Their plug-ins are imported, their scenarios built and their strategies constructed, in a
    process of its own: this one stays small and without torch.
    """
    with snapshot():
        distinct = {_key(c): c for c in cells}
        ordered = sorted(distinct.values(), key=_stream_key)
    problems = ask(examine, ordered, threads=max(c.threads for c in ordered))
    if problems:
        raise ConfigError("\n".join(problems))


def examine(cells: Sequence[RunConfig]) -> list[str]:
    """Build each of `cells`, which are sorted by stream; returns what went wrong."""
    from clframe.engine.build import (
        check_budget,
        make_strategy,
        make_stream,
        resolve_device,
        stream_info,
        try_net,
    )

    problems: list[str] = []
    stream, built = None, None
    for cfg in cells:
        part = cfg.scenario
        try:
            resolve_device(cfg)
            if built != _stream_key(cfg):
                built, stream = _stream_key(cfg), None
                stream = make_stream(cfg)
            if stream is not None:
                check_budget(cfg, stream)
                part = cfg.strategy
                strategy = make_strategy(cfg, stream_info(stream), stream.mean, stream.std)
                try_net(cfg, strategy.net, stream.learned[0].train.x[:1])
        except ClframeError as e:
            problems.append(str(e) if part in str(e) else f"{part}: {e}")
        except Exception as e:  # plug-ins are other people's code
            problems.append(f"{part}: {_blame(e)}")
    return list(dict.fromkeys(problems))


def _blame(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def _key(cfg: RunConfig) -> str:
    return json.dumps(resolved(cfg).model_dump(exclude=SILENT), sort_keys=True, default=str)


def _stream_key(cfg: RunConfig) -> str:
    """What a stream depends on, the seed aside."""
    facts = resolved(cfg).model_dump(include={"scenario", "epochs", "requests", "data"})
    facts["arguments"] = [c.options for c in resolve_options(cfg, "scenario")]
    facts["split"] = cfg.eval.split
    return json.dumps(facts, sort_keys=True, default=str)
