"""A grid changed by words of the command line: axes replaced, included entries chosen among."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clframe.config.problems import brief
from clframe.config.read import flat
from clframe.config.resolve import KINDS
from clframe.errors import ConfigError, nearest

Changes = dict[str, Any]


def as_list(value: Any) -> list[Any]:
    """A scalar is a list of one."""
    return value if isinstance(value, list) else [value]


def with_lists(entry: Changes) -> Changes:
    """An included entry; if it has axes of its own, they are lists."""
    if "axes" not in entry:
        return entry
    return {**entry, "axes": {k: as_list(v) for k, v in entry["axes"].items()}}


def is_axis(key: str, axes: Changes, includes: Sequence[Changes]) -> bool:
    """Whether a word for `key` speaks of axes, and not of the base."""
    own = any(key in entry.get("axes", {}) for entry in includes)
    return key in axes or key in (*KINDS, "seed") or own


def narrowed(
    axes: Changes, includes: Sequence[Changes], key: str, values: list[Any]
) -> tuple[Changes, list[Changes]]:
    """What a word leaves of the product's axes and of the included entries.

    Without entries that have axes of their own it replaces the product's axis. With them, names of
    strategies and scenarios choose among what there is, everywhere; other axes are replaced where
    they are. Raises ConfigError for a name that is nowhere.
    """
    if not any("axes" in entry for entry in includes):
        return {**axes, key: values}, list(includes)
    if key not in KINDS:
        seeds = key == "seed"
        product = {**axes, key: values} if key in axes or (seeds and axes) else axes
        return product, [replaced(entry, key, values, anew=seeds) for entry in includes]
    named = [*axes.get(key, []), *(v for entry in includes for v in _names(entry, key))]
    for value in values:
        if value not in named:
            known = ", ".join(dict.fromkeys(map(str, named)))
            raise ConfigError(
                f"command line: {key} = {brief(value)}: no cell of this grid has it."
                f"{nearest(str(value), map(str, named))} It has: {known}."
            )
    kept = [v for v in axes.get(key, []) if v in values]
    product = {**axes, key: kept} if kept else {} if key in axes else axes
    chosen = [_chosen(entry, key, values) for entry in includes]
    return product, [entry for entry in chosen if entry is not None]


def _names(entry: Changes, key: str) -> list[Any]:
    own: list[Any] = entry.get("axes", {}).get(key, [entry[key]] if key in entry else [])
    return own


def replaced(entry: Changes, key: str, values: list[Any], *, anew: bool = False) -> Changes:
    """An included entry with other values for `key`, where it sets it, or `anew` where not."""
    axes = entry.get("axes", {})
    plain = flat({k: v for k, v in entry.items() if k != "axes"})
    if key not in axes and key not in plain and not (anew and axes):
        return entry
    plain.pop(key, None)
    if key not in axes and len(values) == 1:
        return plain | {key: values[0]} | ({"axes": axes} if axes else {})
    return plain | {"axes": {**axes, key: values}}


def _chosen(entry: Changes, key: str, values: list[Any]) -> Changes | None:
    left = [v for v in _names(entry, key) if v in values]
    if not left:
        return None if _names(entry, key) else entry
    return replaced(entry, key, left)
