"""A grid file: a product of choices over a base, spelled out into checked cells."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clframe.config.identity import run_id
from clframe.config.load import checked, defaults
from clframe.config.narrow import Changes, as_list, is_axis, narrowed, replaced, with_lists
from clframe.config.problems import MISSING, Problem, brief, fail, look_up, unknown_key
from clframe.config.read import COMMAND_LINE, flat, merged, overrides, put, read_yaml, resolved
from clframe.config.resolve import KINDS, choices
from clframe.config.schema import RunConfig, keys
from clframe.errors import ClframeError, nearest
from clframe.registry import plugin_names, shown, snapshot

PARTS = ("name", "base", "axes", "include", "exclude", "options")
RESERVED = ("solo", "artifacts")  # folders of runs/ that are no grids


@dataclass(frozen=True)
class GridSpec:
    """A product of choices over a base.

    `axes` maps dotted keys to values; an entry of `include` may have axes of its own, and is then
    a product. `origin` says where a dotted key was written, and how.
    """

    name: str
    base: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    include: list[Changes] = field(default_factory=list)
    exclude: list[Changes] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    where: str = "grid"
    origin: dict[str, tuple[str, str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list, compare=False)

    def cells(self) -> list[RunConfig]:
        """One checked configuration per run: the product in the order written, then the included.

        Every problem of every cell is reported at once; what is merely odd goes to `notices`.
        """
        with snapshot():
            return self._cells()

    def _cells(self) -> list[RunConfig]:
        found: dict[str, RunConfig] = {}
        problems: list[Problem] = []
        used: set[str] = set()
        hits = [0] * len(self.exclude)
        self.notices.clear()
        for label, changes in self._changes():
            data = self._data(changes)
            cfg, wrong = checked(_prune(data, used), functools.partial(self._locate, label))
            problems += wrong
            if cfg is None or wrong or (label is None and self._excluded(cfg, hits)):
                continue
            first = found.setdefault(run_id(cfg), cfg)
            if first is not cfg:
                what = ", ".join(f"{k}={brief(v)}" for k, v in changes.items())
                self.notices.append(f"{what} repeats an earlier cell and is run once")
        if not problems:
            problems += self._unused(used)
        fail(problems)
        self._explain_excludes(hits)
        if not found:
            raise ClframeError(f"{self.where}: no cells are left; loosen exclude or widen axes")
        return list(found.values())

    def to_yaml(self) -> str:
        """The grid file that gives the same cells again."""
        used: set[str] = set()
        with snapshot():
            for _, changes in self._changes():
                _prune(self._data(changes), used)
        spec = {part: getattr(self, part) for part in PARTS}
        spec["options"] = {k: v for k, v in self._given_options().items() if k in used}
        spec["base"] = {k: v for k, v in self.base.items() if k != "options"}
        return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)

    def included_keys(self) -> list[str]:
        """Every dotted key that an included entry sets."""
        found = [k.removeprefix("axes.") for entry in self.include for k in flat(entry)]
        return list(dict.fromkeys(found))

    def _changes(self) -> Iterator[tuple[int | None, Changes]]:
        """The settings of each cell over the base; included ones with their number."""
        if self.axes:
            for values in itertools.product(*self.axes.values()):
                yield None, dict(zip(self.axes, values, strict=True))
        elif not self.include:
            yield None, {}
        for number, entry in enumerate(self.include):
            axes = entry.get("axes", {})
            for values in itertools.product(*axes.values()):
                own = {k: v for k, v in entry.items() if k != "axes"}
                yield number, own | dict(zip(axes, values, strict=True))

    def _data(self, changes: Changes) -> dict[str, Any]:
        data = copy.deepcopy(self.base)
        data["options"] = copy.deepcopy(self._given_options())
        for key, value in changes.items():
            put(data, key, copy.deepcopy(value))
        return resolved(data, self.where)

    def _excluded(self, cfg: RunConfig, hits: list[int]) -> bool:
        facts = cfg.model_dump()
        match = [
            all(look_up(facts, k) == v for k, v in flat(entry).items()) for entry in self.exclude
        ]
        for i, hit in enumerate(match):
            hits[i] += hit
        return any(match)

    def _locate(self, included: int | None, key: str) -> tuple[str, str]:
        """Where the value of `key` in a cell was written; a word of the command line goes first."""
        for path, (where, _) in self.origin.items():
            if where == COMMAND_LINE and _touches(path, key):
                return where, key
        if included is not None:
            for path in flat(self.include[included]):
                axis = path.removeprefix("axes.")
                if _touches(axis, key):
                    place = "" if axis == path else "axes."
                    return self.where, f"include[{included}].{place}{key}"
        else:
            for axis in self.axes:
                if _touches(axis, key):
                    return self.where, f"axes.{key}"
        for path, source in self.origin.items():
            if _touches(path, key):
                return source
        if key.startswith("options.") and look_up(self.options, key[8:]) is not MISSING:
            return self.where, key
        return self.where, f"base.{key}"

    def _given_options(self) -> dict[str, Any]:
        given: dict[str, Any] = merged(self.base.get("options", {}), self.options)
        return given

    def _unused(self, used: set[str]) -> list[Problem]:
        """Options no cell takes; a grid narrowed on the command line may have some."""
        spared: set[str] = set()
        if any(self.origin.get(k, ("",))[0] == COMMAND_LINE for k in KINDS):
            spared = {n for kind in KINDS for n in plugin_names(kind)}
        message = f" The grid uses: {', '.join(sorted(used))}."
        return [
            Problem(
                self._locate(None, f"options.{k}")[0],
                f"options.{k}",
                v,
                f"no cell uses a plug-in of that name.{nearest(k, used)}{message}",
            )
            for k, v in self._given_options().items()
            if k not in used | spared
        ]

    def _explain_excludes(self, hits: list[int]) -> None:
        for entry, count in zip(self.exclude, hits, strict=True):
            if not count:
                self.notices.append(f"exclude {brief(entry)} matches no cell")


def load_grid(path: Path | str, words: Sequence[str] = ()) -> GridSpec:
    """The grid in a file, changed by `key=value` words; nothing is expanded yet.

    A word for `strategy`, `scenario`, `seed` or any key that is an axis replaces that axis, `name`
    renames the grid, and every other word is laid on the base. Of included entries with axes of
    their own, `strategy` and `scenario` choose among what is there; other axes are replaced. What
    an included entry sets itself gives way to a word too.
    """
    path = Path(path)
    raw, where = read_yaml(path), shown(path)
    problems = list(_check_shape(raw, where))
    fail(problems)
    run_yaml, base = defaults()
    origin = {k: (shown(run_yaml), k) for k in flat(base)} if run_yaml else {}
    for key, value in flat(raw.get("base") or {}).items():
        put(base, key, value)
        origin[key] = (where, f"base.{key}")
    axes = {k: as_list(v) for k, v in (raw.get("axes") or {}).items()}
    name = raw.get("name", path.stem)
    options = raw.get("options") or {}
    includes = [with_lists(entry) for entry in raw.get("include") or []]
    origin |= {f"options.{k}": (where, f"options.{k}") for k in flat(options)}
    for key, value in overrides(words).items():
        origin[key] = (COMMAND_LINE, key)
        if key == "name":
            name = value
        elif is_axis(key, axes, includes):
            axes, includes = narrowed(axes, includes, key, as_list(value))
            continue
        elif key.startswith("options."):
            put(options, key.removeprefix("options."), value)
        else:
            put(base, key, value)
        includes = [replaced(entry, key, [value]) for entry in includes]
    excludes = raw.get("exclude") or []
    spec = GridSpec(name, base, axes, includes, excludes, options, where, origin)
    fail(_check_names(spec))
    return spec


def _check_shape(raw: dict[str, Any], where: str) -> Iterator[Problem]:
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


def _check_names(spec: GridSpec) -> Iterator[Problem]:
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


def _prune(data: dict[str, Any], used: set[str]) -> dict[str, Any]:
    """`data` with only the options this cell uses; their names are added to `used`."""
    mine: set[str] = set()
    for kind in KINDS:
        try:
            found = choices(kind, str(data.get(kind)), data["options"])
        except ClframeError:
            return {**data, "options": {}}  # an unknown name is reported when the cell is checked
        mine |= {key for choice in found for key in choice.keys}
    used |= mine
    return {**data, "options": {k: v for k, v in data["options"].items() if k in mine}}


def _touches(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")
