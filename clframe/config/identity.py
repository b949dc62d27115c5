"""Which run this is: an id over all that changes its numbers, and a file that says everything."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from clframe.config.problems import fail, from_validation
from clframe.config.read import read_yaml
from clframe.config.resolve import KINDS, Choice, resolve_options
from clframe.config.schema import RunConfig
from clframe.registry import shown, split_chain

SCHEMA = 1  # raise it when a default in the schema changes: old runs are then no longer the same
UNNORMED = ("mlp", "cnn", "lenet", "vgg", "vit")  # networks without batch norm
SILENT = {
    *("devices", "num_nodes", "timeout", "memory", "accelerator", "track", "checkpoint", "tune"),
    *("data", "options", "requests", "forget_data", "copies"),
}


def run_id(cfg: RunConfig) -> str:
    """`<scenario>-<strategy>-s<seed>-<hash8>`, the name of the run's folder."""
    text = json.dumps(identity(cfg), sort_keys=True, separators=(",", ":"), default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    strategy = "+".join(map(_short, split_chain(cfg.strategy)))
    return f"{_short(cfg.scenario)}-{strategy}-s{cfg.seed}-{digest}"


def identity(cfg: RunConfig) -> dict[str, Any]:
    """What the id is made of: no defaults, no devices, nothing about tracking or checkpoints.

    Where data lies counts only for a scenario that cannot do without being told.
    """
    facts = cfg.model_dump(exclude=SILENT, exclude_defaults=True)
    _drop(facts, "eval", "mode")  # another way to the same counts
    _drop(facts, "net", "batch_norm")
    facts["schema"] = SCHEMA
    facts["plugins"] = {k: [_facts(c) for c in resolve_options(cfg, k)] for k in KINDS}
    facts |= _local_norms(cfg)
    requests = cfg.request_list()
    if requests is not None:
        facts["requests"] = [r.model_dump(exclude_defaults=True) for r in requests]
    (scenario,) = resolve_options(cfg, "scenario")
    if any(o.name == "root" and o.default is None for o in scenario.plugin.options):
        facts["root"] = cfg.data.root
    return facts


def reference_key(cfg: RunConfig) -> str:
    """Equal for two runs that differ in nothing but their strategy and its options.

    How often a run is evaluated does not count, since a reference is its boundaries alone. Plug-ins
    are not looked up: `cfg` is the resolved configuration of a run's folder.
    """
    facts = cfg.model_dump(exclude=SILENT | {"strategy"}, exclude_defaults=True)
    facts["options"] = cfg.options.get(cfg.scenario.rpartition(":")[2], {})
    facts["requests"] = [r.model_dump(exclude_defaults=True) for r in cfg.request_list() or []]
    facts["root"] = cfg.data.root
    _drop(facts, "net", "batch_norm")
    facts |= _local_norms(cfg)
    _drop(facts, "eval", "rho", "dense", "subset", "budget", "diagnostics", "chunk", "mode")
    return json.dumps({k: v for k, v in facts.items() if v}, sort_keys=True, default=str)


def _local_norms(cfg: RunConfig) -> dict[str, int]:
    """The number of ranks, where each of them normalises by its own rows alone."""
    local = cfg.world > 1 and cfg.net.batch_norm == "local" and cfg.net.name not in UNNORMED
    return {"local_batch_norm": cfg.world} if local else {}


def _drop(facts: dict[str, Any], part: str, *keys: str) -> None:
    """Leave `keys` of a part of the configuration out, and the part itself when nothing is left."""
    kept = {k: v for k, v in facts.pop(part, {}).items() if k not in keys}
    if kept:
        facts[part] = kept


def resolved(cfg: RunConfig) -> RunConfig:
    """`cfg` with the options of presets written out and those of other plug-ins left out."""
    options = {}
    for kind in KINDS:
        for choice in resolve_options(cfg, kind):
            if choice.options:
                options[choice.name] = choice.options
    return cfg.model_copy(update={"options": options})


def to_yaml(cfg: RunConfig) -> str:
    """The whole resolved configuration, defaults included."""
    return yaml.safe_dump(resolved(cfg).model_dump(), sort_keys=False, allow_unicode=True)


def from_yaml(path: Path) -> RunConfig:
    """The configuration in a run's `config.yaml`; plug-ins are not looked up."""
    data = read_yaml(path)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as e:
        fail(from_validation(e, lambda key: (shown(path), key)))
        raise


def _facts(choice: Choice) -> dict[str, Any]:
    """A plug-in and the options that differ from its defaults."""
    defaults = {o.name: o.literal() for o in choice.plugin.options}
    told = {k: v for k, v in choice.options.items() if not _same(v, defaults.get(k, ...))}
    return {"name": choice.plugin.name, "options": told}


def _same(value: Any, default: Any) -> bool:
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def _short(name: str) -> str:
    """A name as part of a folder's: the class of a dotted path, without odd characters."""
    return re.sub(r"[^\w.]", "_", name.rpartition(":")[2])
