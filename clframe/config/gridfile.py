"""What a grid file may hold, and everything that can be wrong with it before it is spelled out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from clframe.config.companions import Audit
from clframe.config.narrow import Changes
from clframe.config.problems import Problem, fail, from_validation, unknown_key
from clframe.config.read import COMMAND_LINE, flat
from clframe.config.schema import keys

if TYPE_CHECKING:
    from clframe.config.grid import GridSpec

PARTS = ("name", "base", "axes", "include", "exclude", "options", "audit")
RESERVED = ("solo", "artifacts")  # folders of runs/ that are no grids


def audit_of(given: Any, words: dict[str, Any], where: str) -> Audit | None:
    """How unlearning is judged by a grid file's `audit`, changed by words; None is not at all."""
    for key, value in words.items():
        part, where = key.removeprefix("audit").removeprefix("."), COMMAND_LINE
        given = (given if isinstance(given, dict) else {}) | {part: value} if part else value
    if given is None or given is False:
        return None
    given = {} if given is True else given
    if not isinstance(given, dict):
        fail([Problem(where, "audit", given, "expected a mapping, or true")])
    else:
        fail(
            Problem(where, f"audit.{key}", value, unknown_key(key, Audit.model_fields))
            for key, value in given.items()
            if key not in Audit.model_fields
        )
    try:
        return Audit.model_validate(given)
    except ValidationError as e:
        fail(from_validation(e, lambda key: (where, f"audit.{key}")))
        raise


def shape_problems(raw: dict[str, Any], where: str) -> Iterator[Problem]:
    """Parts that a grid file does not have, or not of that kind."""
    known = keys()
    for key, value in raw.items():
        if key not in PARTS:
            hint = f"it belongs under base: or axes:, as `base: {{{key}: ...}}`"
            yield Problem(where, key, value, hint if key in known else unknown_key(key, PARTS))
    for part in ("base", "axes", "options"):
        if not isinstance(raw.get(part) or {}, dict):
            yield Problem(where, part, raw[part], "expected a mapping")
    for part in ("include", "exclude"):
        entries = raw.get(part) or []
        if not isinstance(entries, list):
            yield Problem(where, part, entries, "expected a list of mappings")
            continue
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or not entry:
                yield Problem(where, f"{part}[{i}]", entry, "expected a mapping, {seed: 0} say")
            elif part == "include" and "axes" in entry:
                yield from _check_axes(entry, where, f"{part}[{i}].axes")


def _check_axes(entry: Changes, where: str, written: str) -> Iterator[Problem]:
    """What is wrong with the axes of an included entry."""
    axes = entry["axes"]
    if not isinstance(axes, dict) or not axes:
        yield Problem(where, written, axes, "expected a mapping, {seed: [0, 1]} say")
        return
    for key, values in axes.items():
        if key not in keys() and not key.startswith(("options.", "net.args.")):
            yield Problem(where, f"{written}.{key}", values, unknown_key(key))
        elif values == []:
            yield Problem(where, f"{written}.{key}", values, "expected at least one value")
        elif key in entry:
            yield Problem(where, f"{written}.{key}", values, "also set beside axes; choose one")


def name_problems(spec: GridSpec) -> Iterator[Problem]:
    """Names that cannot be: the grid's own, its axes, what its excludes look at."""
    where, written = spec.origin.get("name", (spec.where, "name"))
    if not isinstance(spec.name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", spec.name):
        yield Problem(where, written, spec.name, "expected a folder's name: letters, digits, _ - .")
    elif spec.name in RESERVED:
        yield Problem(where, written, spec.name, "this name is taken by clframe; choose another")
    known = keys()
    for axis, values in spec.axes.items():
        at = spec.origin.get(axis, (spec.where, f"axes.{axis}"))
        if axis not in known and not axis.startswith(("options.", "net.args.")):
            yield Problem(*at, values, unknown_key(axis))
        elif not values:
            yield Problem(*at, values, "expected at least one value")
    for i, entry in enumerate(spec.exclude):
        for key, value in flat(entry).items():
            if key not in known and not key.startswith(("options.", "net.args.")):
                yield Problem(spec.where, f"exclude[{i}].{key}", value, unknown_key(key))
