"""All that is wrong with a configuration, in one form: file, key, value, what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from clframe.config.requests import Request
from clframe.config.schema import keys
from clframe.errors import ConfigError, nearest

MISSING: Any = object()
Locate = Callable[[str], tuple[str, str]]

TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
ACCUMULATION = "gradient accumulation is not offered, a batch is a step; raise batch_size instead"


@dataclass(frozen=True)
class Problem:
    """One thing wrong. `where` is a file or the command line; `value` may be MISSING."""

    where: str
    key: str
    value: Any
    message: str

    def __str__(self) -> str:
        given = "" if self.value is MISSING else f" = {brief(self.value)}"
        return ": ".join(p for p in (self.where, self.key + given, self.message) if p)


def fail(problems: Iterable[Problem]) -> None:
    """Raise all `problems` as one error; return when there are none."""
    distinct = list(dict.fromkeys(str(p) for p in problems))
    if len(distinct) == 1:
        raise ConfigError(distinct[0])
    if distinct:
        lines = [line.replace("\n", "\n  ") for line in distinct]
        raise ConfigError("\n- ".join([f"{len(distinct)} problems", *lines]))


def brief(value: Any) -> str:
    """`value` as it would stand in YAML, cut to one short line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def from_validation(error: ValidationError, locate: Locate) -> list[Problem]:
    """Pydantic's findings; `locate` says where a dotted key was written, and how."""
    found = []
    for detail in error.errors(include_url=False):
        if "str" in detail["loc"]:
            continue  # the other half of `text or list`: the list's own problem says more
        found.append(_problem(detail, locate))
    return found


def unknown_key(key: str, known: Iterable[str] | None = None) -> str:
    """What to say of a key that the schema does not have."""
    if "accumul" in key:
        return ACCUMULATION
    names = sorted(keys() if known is None else known, key=lambda n: n.count("."))
    tail = key.rpartition(".")[2]
    same_tail = [n for n in names if n.rpartition(".")[2] == tail]
    if same_tail:
        return f"unknown key. Did you mean {same_tail[0]!r}?"
    return "unknown key." + (
        nearest(key, names) or _nearest_tail(tail, names) or f" Known: {_top(names)}."
    )


def _nearest_tail(tail: str, names: list[str]) -> str:
    tails = {n.rpartition(".")[2]: n for n in reversed(names)}
    hint = nearest(tail, tails)
    close = next((n for t, n in tails.items() if repr(t) in hint), None)
    return f" Did you mean {close!r}?" if close else ""


def _top(names: list[str]) -> str:
    return ", ".join(n for n in names if "." not in n)


def _problem(detail: ErrorDetails, locate: Locate) -> Problem:
    context = detail.get("ctx", {})
    key = str(context.get("key") or _key(detail["loc"]))
    value = MISSING if detail["type"] == "missing" else context.get("value", detail["input"])
    where, written = locate(key)
    return Problem(where, written, value, _expected(detail, key))


def _key(loc: tuple[int | str, ...]) -> str:
    """A location as it would be written: `requests[1].learn`."""
    parts = [p for p in loc if not str(p).startswith(("list[", "dict["))]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")


def _expected(detail: ErrorDetails, key: str) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"missing; give one, as in {key}={_example(key)}"
    if kind == "extra_forbidden":
        known = [*keys(Request), "forget.file"] if key.startswith("requests[") else None
        return unknown_key(key.rpartition("].")[2], known)
    if kind == "dict_type" and key.startswith("options."):
        return f"options go by plug-in, as in {key.replace('options.', 'options.PLUGIN.', 1)}=VALUE"
    if kind in TYPES:
        many = isinstance(detail["input"], list) and not kind.startswith("list")
        return f"expected {TYPES[kind]}" + ("; to try several, vary it in a grid's axes" * many)
    if kind == "literal_error":
        choices = [c.strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"expected one of {', '.join(choices)}.{nearest(str(detail['input']), choices)}"
    for bound, phrase in BOUNDS.items():
        if bound in context:
            return f"expected {phrase.format(context[bound])}"
    if kind == "value_error":
        return str(context["error"])
    return str(context.get("message") or detail["msg"])


def _example(key: str) -> str:
    return {"strategy": "replay", "scenario": "split_digits"}.get(key, "VALUE")


def look_up(data: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, MISSING when there is none."""
    at: Any = data
    for part in key.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return MISSING
        at = at[part]
    return at
