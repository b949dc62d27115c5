"""Which cells are compared with which: a method on a benchmark, its seeds the units."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clframe.config.requests import in_words
from clframe.report.load import Cell

NAMED = ("strategy", "scenario", "seed")
SILENT = (
    "devices",
    "accelerator",
    "checkpoint",
    "tune",
    "track",
    "data",
    "copies",
)  # not in a cell's id
ABSENT = "default"
OPEN = ("options", "net")  # parts where an absent key is the plug-in's default
Variant = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Method:
    """A strategy with every other setting that varies in this grid, such as batch_size=64."""

    strategy: str
    variant: Variant = ()

    @property
    def label(self) -> str:
        return ", ".join([self.strategy, *(f"{key}={value}" for key, value in self.variant)])


@dataclass(frozen=True)
class Group:
    """The finished cells of one method on one benchmark, by seed."""

    benchmark: str
    method: Method
    cells: tuple[Cell, ...]

    @property
    def reference(self) -> str | None:
        return self.cells[0].reference

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(c.seed for c in self.cells)


@dataclass(frozen=True)
class Naming:
    """How the cells of one grid are called."""

    methods: Mapping[str, Method]  # cell id -> method
    benchmarks: Mapping[str, str]  # cell id -> benchmark

    @staticmethod
    def of(cells: Iterable[Cell]) -> Naming:
        """Name cells by what varies among those of one strategy on one scenario, and benchmarks by
        what varies among the streams of all that are on one scenario.

        Options are called alike whoever takes them, so that variants of several strategies match.
        """
        cells = list(cells)
        flat = {c.id: dict(flatten(c.config)) for c in cells}
        varying: dict[str, set[str]] = {}
        pairs: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            if cell.config:
                pairs.setdefault((cell.strategy, cell.scenario), []).append(cell)
        for (strategy, _), members in pairs.items():
            varying.setdefault(strategy, set()).update(_varying([flat[c.id] for c in members]))
        known = {k for keys in varying.values() for k in keys}
        streams = {
            name: _of_streams([c for c in cells if c.scenario == name], flat, known)
            for name in {c.scenario for c in cells}
        }
        shared = {k for keys in varying.values() for k in keys if not k.startswith("options.")}
        names = {strategy: _short_names(keys | shared) for strategy, keys in varying.items()}
        methods, benchmarks = {}, {}
        for cell in cells:
            keys, short = sorted(varying.get(cell.strategy, ())), names.get(cell.strategy, {})
            own = [k for k in keys if not _of_scenario(k, cell)]
            titles = _short_names(streams[cell.scenario])
            values = flat[cell.id]
            methods[cell.id] = Method(
                cell.strategy, tuple((short[k], _read(k, values)) for k in own)
            )
            told = [k for k in sorted(titles) if values.get(k) is not None]
            theirs = [f"{titles[k]}={_read(k, values)}" for k in told]
            benchmarks[cell.id] = ", ".join([cell.scenario, *theirs])
        return Naming(methods, benchmarks)

    def groups(self, cells: Iterable[Cell]) -> list[Group]:
        """`cells` by benchmark and method, in the order in which they come."""
        found: dict[tuple[str, Method], list[Cell]] = {}
        order: dict[str, None] = {}
        for cell in cells:
            order.setdefault(self.benchmarks[cell.id])
            key = (self.benchmarks[cell.id], self.methods[cell.id])
            found.setdefault(key, []).append(cell)
        rank = list(order)
        keys = sorted(found, key=lambda key: rank.index(key[0]))
        return [Group(b, m, tuple(sorted(found[b, m], key=lambda c: c.seed))) for b, m in keys]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`optim.lr`-style keys and their values."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def by_benchmark(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """The groups of each benchmark."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.benchmark, []).append(group)
    return found


def _varying(configs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys with more than one value among configs of one strategy on one scenario.

    Keys that are not part of a cell's id count only where nothing else tells two cells apart.
    """
    keys = {k for c in configs for k in c if k not in NAMED and _differs(k, configs)}
    loud = {k for k in keys if k.split(".")[0] not in SILENT}
    told = [(c.get("seed"), *(_show(c.get(k, ABSENT)) for k in sorted(loud))) for c in configs]
    return loud if len(set(told)) == len(told) else keys


def _of_streams(cells: Sequence[Cell], flat: Mapping[str, Any], known: set[str]) -> set[str]:
    """What tells the streams of cells on one scenario apart: of what is `known` to vary, and said.

    A cell that does not say has what its scenario's preset says, which may be the same.
    """
    said: dict[str, set[str]] = {}
    for cell in cells:
        for key in (k for k in flat[cell.id] if _of_scenario(k, cell)):
            said.setdefault(key, set()).add(_show(flat[cell.id][key]))
    return {k for k, values in said.items() if k in known or len(values) > 1}


def _differs(key: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    absent_counts = key.split(".")[0] in OPEN
    return len({_show(c.get(key, ABSENT)) for c in configs if absent_counts or key in c}) > 1


def _of_scenario(key: str, cell: Cell) -> bool:
    """Whether a key changes the stream itself, so that results are another benchmark's."""
    own = {cell.scenario, str(cell.record.get("data", {}).get("scenario", cell.scenario))}
    return key.split(".")[0] == "requests" or any(key.startswith(f"options.{s}.") for s in own)


def _short_names(keys: set[str]) -> dict[str, str]:
    """The last part of each key, or the whole of it where two would read alike."""
    last = {k: k.rsplit(".", 1)[-1] for k in keys}
    last = {k: k if name == "name" else name for k, name in last.items()}
    names = list(last.values())
    return {k: name if names.count(name) == 1 else k for k, name in last.items()}


def _read(key: str, values: Mapping[str, Any]) -> str:
    """A setting as titles have it."""
    value = values.get(key, ABSENT)
    return in_words(value) if key == "requests" and isinstance(value, list) else _show(value)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
