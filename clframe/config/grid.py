"""A grid file: a product of choices over a base, spelled out into checked cells."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clframe.config.companions import SEEDS, Audit, asks_to_forget, companions
from clframe.config.gridfile import PARTS, audit_of, name_problems, shape_problems
from clframe.config.identity import run_id
from clframe.config.load import checked, defaults
from clframe.config.narrow import Changes, as_list, is_axis, narrowed, replaced, with_lists
from clframe.config.problems import (
    MISSING,
    Problem,
    brief,
    fail,
    look_up,
)
from clframe.config.read import COMMAND_LINE, flat, merged, overrides, put, read_yaml, resolved
from clframe.config.resolve import KINDS, choices
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError, nearest
from clframe.registry import plugin_names, shown, snapshot


@dataclass(frozen=True)
class GridSpec:
    """A product of choices over a base.

    `audit`: how unlearning is to be judged; its cells keep what that needs. `axes` maps dotted keys
    to values; an entry of `include` may have axes of its own, and is then a product. `origin` says
    where a dotted key was written, and how.
    """

    name: str
    base: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    include: list[Changes] = field(default_factory=list)
    exclude: list[Changes] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    audit: Audit | None = None
    where: str = "grid"
    origin: dict[str, tuple[str, str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list, compare=False)

    def cells(self) -> list[RunConfig]:
        """One checked configuration per run: the product in the order written, then the included.

        Every problem of every cell is reported at once; what is merely odd goes to `notices`.
        """
        with snapshot():
            return self._cells()

    def companions(self) -> list[RunConfig]:
        """What an audit trains beside the cells: the retrained and the unasked of each."""
        if self.audit is None:
            return []
        with snapshot():
            cells = self._cells()
            known = {run_id(cfg) for cfg in cells}
            found = {run_id(cfg): cfg for cfg in companions(cells)}
        return [cfg for id_, cfg in found.items() if id_ not in known]

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
        if self.audit is None:
            return list(found.values())
        self._explain_audit(found.values())
        return [cfg.model_copy(update={"copies": True}) for cfg in found.values()]

    def to_yaml(self) -> str:
        """The grid file that gives the same cells again."""
        used: set[str] = set()
        with snapshot():
            for _, changes in self._changes():
                _prune(self._data(changes), used)
        spec = {part: getattr(self, part) for part in PARTS}
        if self.audit is None:
            del spec["audit"]
        else:
            spec["audit"] = self.audit.model_dump()
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

    def _explain_audit(self, cells: Iterable[RunConfig]) -> None:
        asked = [cfg for cfg in cells if asks_to_forget(cfg)]
        seeds = len({cfg.seed for cfg in asked})
        if not asked:
            self.notices.append("audit: no cell has a forget request, so there is nothing to judge")
        elif seeds < SEEDS:
            floor = "no noise floor" if seeds == 1 else "a noise floor from a single pair"
            self.notices.append(f"audit: {seeds} seed(s): {floor}; run {SEEDS} or more")

    def _explain_excludes(self, hits: list[int]) -> None:
        for entry, count in zip(self.exclude, hits, strict=True):
            if not count:
                self.notices.append(f"exclude {brief(entry)} matches no cell")


def load_grid(path: Path | str, words: Sequence[str] = ()) -> GridSpec:
    """The grid in a file, changed by `key=value` words; nothing is expanded yet.

    A word for `strategy`, `scenario`, `seed` or any key that is an axis replaces that axis, `name`
    renames the grid, `audit` and `audit.<key>` say how it is judged, and every other word is laid
    on the base. Of included entries with axes of their own, `strategy` and `scenario` choose among
    what is there; other axes are replaced. What an included entry sets itself gives way to a word
    too.
    """
    path = Path(path)
    raw, where = read_yaml(path), shown(path)
    fail(shape_problems(raw, where))
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
    given = overrides(words)
    asked = {key: given.pop(key) for key in list(given) if key.split(".")[0] == "audit"}
    for key, value in given.items():
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
    excludes, audit = raw.get("exclude") or [], audit_of(raw.get("audit"), asked, where)
    spec = GridSpec(name, base, axes, includes, excludes, options, audit, where, origin)
    fail(name_problems(spec))
    return spec


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
