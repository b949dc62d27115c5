"""Every distinct cell built once, untrained, before any starts: what cannot work is told first."""

from __future__ import annotations

import json
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
    from clframe.engine.build import assemble, make_stream, resolve_device

    problems: list[str] = []
    stream, built = None, None
    for cfg in cells:
        try:
            resolve_device(cfg)
            if built != _stream_key(cfg):
                built, stream = _stream_key(cfg), None
                stream = make_stream(cfg)
            if stream is not None:
                assemble(cfg, stream)
        except ClframeError as e:
            problems.append(str(e))
    return list(dict.fromkeys(problems))


def _key(cfg: RunConfig) -> str:
    return json.dumps(resolved(cfg).model_dump(exclude=SILENT), sort_keys=True, default=str)


def _stream_key(cfg: RunConfig) -> str:
    """What a stream depends on, the seed aside."""
    kept = {"scenario", "epochs", "requests", "forget_data", "data"}
    facts = resolved(cfg).model_dump(include=kept)
    facts["arguments"] = [c.options for c in resolve_options(cfg, "scenario")]
    facts["split"] = cfg.eval.split
    return json.dumps(facts, sort_keys=True, default=str)
