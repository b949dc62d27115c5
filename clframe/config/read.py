"""Reading YAML files and key=value words, with an error for everything that can be wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clframe.config.problems import MISSING, Problem, fail
from clframe.errors import ConfigError, nearest
from clframe.registry import shown

COMMAND_LINE = "command line"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, interpolations unresolved."""
    if not path.is_file():
        raise ConfigError(_missing(path))
    try:
        text = path.read_text(encoding="utf-8")
        loaded = OmegaConf.create(text) if text.strip() else None
    except yaml.YAMLError as e:
        raise ConfigError(f"{shown(path)}{_line(e)}: {_said(e)}") from None
    except (UnicodeDecodeError, OmegaConfBaseException) as e:
        raise ConfigError(f"{shown(path)}: not a YAML file clframe can read: {e}") from None
    content = None if loaded is None else OmegaConf.to_container(loaded, resolve=False)
    if not content:
        raise ConfigError(f"{shown(path)}: the file is empty; expected keys and values")
    if not isinstance(content, dict) or _is_bare(text, content):
        raise ConfigError(f"{shown(path)}: expected keys and values, as in `epochs: 1`")
    odd = [Problem(shown(path), str(k), v, "a key must be text") for k, v in _odd_keys(content)]
    fail(odd)
    return {str(k): v for k, v in content.items()}


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as dotted keys and YAML values; a later word wins."""
    given: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            wanted = f"expected key=value, as in strategy=replay, not {word!r}"
            problems.append(Problem(COMMAND_LINE, "", MISSING, wanted))
            continue
        try:
            value = OmegaConf.from_dotlist([f"value={text}"])
            given[key.strip()] = OmegaConf.to_container(value, resolve=False)["value"]  # type: ignore
        except yaml.YAMLError as e:
            problems.append(Problem(COMMAND_LINE, key, text, f"not a YAML value: {_said(e)}"))
    fail(problems)
    return given


def put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; mappings on the way are made, mappings at the end are merged."""
    *path, last = key.split(".")
    for part in path:
        below = data.get(part)
        if not isinstance(below, dict):
            below = data[part] = {}
        data = below
    data[last] = merged(data.get(last), value)


def merged(under: Any, over: Any) -> Any:
    """`over` laid on `under`: mappings key by key, everything else as a whole."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{k: merged(under.get(k), v) for k, v in over.items()}}


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; `data` may already hold dotted ones."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def resolved(data: dict[str, Any], where: str) -> dict[str, Any]:
    """`data` with its `${...}` filled in."""
    if "${" not in str(data):
        return data
    try:
        filled = OmegaConf.to_container(OmegaConf.create(data), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as e:
        said = str(e).strip().splitlines()[0]
        raise ConfigError(f"{where}: {said} ({e.full_key or 'interpolation'})") from None
    assert isinstance(filled, dict)
    return {str(k): v for k, v in filled.items()}


def _missing(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("conf/grid")
    beside = {p.name: p for p in sorted(folder.glob("*.yaml"))}
    hint = nearest(path.name, beside)
    close = next((p for n, p in beside.items() if repr(n) in hint), None)
    if close:
        return f"{path}: no such file. Did you mean {str(close)!r}?"
    there = f"Files there: {', '.join(beside)}." if beside else f"{folder} holds no YAML files."
    kind = "is a folder, not a YAML file" if path.is_dir() else "no such file"
    return f"{path}: {kind}.\n{there}"


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _said(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    return str(problem or error).strip().splitlines()[0]


def _is_bare(text: str, content: dict[Any, Any]) -> bool:
    """Whether the text is one bare word, which OmegaConf reads as a key without value."""
    return list(content.values()) == [None] and ":" not in text


def _odd_keys(data: dict[Any, Any]) -> list[tuple[Any, Any]]:
    found = [(k, v) for k, v in data.items() if not isinstance(k, str)]
    for value in data.values():
        if isinstance(value, dict):
            found += _odd_keys(value)
    return found
