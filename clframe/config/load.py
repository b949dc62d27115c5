"""From `conf/run.yaml` and the command line to one checked run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clframe.config.problems import Locate, Problem, fail, from_validation
from clframe.config.read import COMMAND_LINE, overrides, put, read_yaml, resolved
from clframe.config.resolve import check_plugins
from clframe.config.schema import RunConfig
from clframe.registry import conf_folders, shown


def load_run(words: Sequence[str]) -> RunConfig:
    """The run that `key=value` words describe, over the defaults of `conf/run.yaml`."""
    given = overrides(words)
    path, data = defaults()
    for key, value in given.items():
        put(data, key, value)

    def locate(key: str) -> tuple[str, str]:
        from_words = path is None or any(_covers(k, key) for k in given) or not _holds(data, key)
        return (COMMAND_LINE if from_words else shown(path)), key  # type: ignore[arg-type]

    cfg, problems = checked(resolved(data, COMMAND_LINE), locate)
    fail(problems)
    assert cfg is not None
    return cfg


def defaults() -> tuple[Path | None, dict[str, Any]]:
    """The first `run.yaml` there is: what every run and every grid starts from."""
    for folder in conf_folders():
        path = folder / "run.yaml"
        if path.is_file():
            return path, read_yaml(path)
    return None, {}


def checked(data: dict[str, Any], locate: Locate) -> tuple[RunConfig | None, list[Problem]]:
    """The configuration, or everything that is wrong with it."""
    try:
        cfg = RunConfig.model_validate(data)
    except ValidationError as e:
        problems = from_validation(e, locate)
        return None, problems + check_plugins(data, locate)
    problems = check_plugins(cfg.model_dump(), locate)
    weights = cfg.net.weights
    if weights is not None and not Path(weights).expanduser().is_file():
        problems.append(Problem(*locate("net.weights"), weights, "no such file"))
    return cfg, problems


def _covers(given: str, key: str) -> bool:
    return given == key or key.startswith(f"{given}.") or given.startswith(f"{key}.")


def _holds(data: dict[str, Any], key: str) -> bool:
    at: Any = data
    for part in key.split("."):
        if not isinstance(at, dict) or part not in at:
            return False
        at = at[part]
    return True
