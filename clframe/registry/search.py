"""Where plug-ins and presets lie: the folders that are searched, in order, and what they hold."""

from __future__ import annotations

import filecmp
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, TypeVar

import clframe
from clframe.errors import PluginError
from clframe.registry.declared import read

Kind = Literal["strategy", "scenario"]
FOLDER: dict[Kind, str] = {"strategy": "strategies", "scenario": "scenarios"}
PACKAGE = Path(clframe.__file__).resolve().parent


Result = TypeVar("Result")
_seen: ContextVar[dict[Any, Any] | None] = ContextVar("seen", default=None)


@contextmanager
def snapshot() -> Iterator[None]:
    """Take the folders to be as they are now while the block lasts: many look-ups, one look."""
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


def remembered(look: Callable[[Kind], Result]) -> Callable[[Kind], Result]:
    """Let `look` look once for each kind within a snapshot."""

    @functools.wraps(look)
    def once(kind: Kind) -> Result:
        seen = _seen.get()
        if seen is None:
            return look(kind)
        key = (look, kind)
        if key not in seen:
            seen[key] = look(kind)
        found: Result = seen[key]
        return found

    return once


@functools.cache
def checkout() -> Path | None:
    """The folder of the repository when clframe runs from one; None for an installed wheel."""
    project = PACKAGE.parent / "pyproject.toml"
    ours = project.is_file() and 'name = "clframe"' in project.read_text(encoding="utf-8")
    return PACKAGE.parent if ours else None


def user_folders() -> list[Path]:
    """The folders of `$CLFRAME_PATH`, a list separated as `$PATH` is."""
    return [Path(p).expanduser() for p in os.environ.get("CLFRAME_PATH", "").split(os.pathsep) if p]


def folders(kind: Kind) -> list[Path]:
    """Where plug-ins of `kind` are searched: here, `$CLFRAME_PATH`, then clframe's own.

    A folder of `$CLFRAME_PATH` holds `strategies/` and `scenarios/`, or else plug-in files
    directly: a file with a class of its own name is a strategy, one with a function a scenario.
    """
    name = FOLDER[kind]
    places = [Path.cwd() / name]
    for folder in user_folders():
        split = [folder / n for n in FOLDER.values() if (folder / n).is_dir()]
        places += [p for p in split if p.name == name] if split else [folder]
    root = checkout()
    places.append(root / name if root else PACKAGE / name)
    return _distinct(p for p in places if p.is_dir())


def plugin_files(kind: Kind) -> dict[str, Path]:
    """Name -> file for every plug-in of `kind`; two different files of one name are an error."""
    files: dict[str, Path] = {}
    for folder in folders(kind):
        mixed = folder in user_folders()
        for path in _named(folder, "*.py"):
            if mixed and not _is_of(kind, path):
                continue
            _add(files, path, f"two {FOLDER[kind]} are named {path.stem!r}")
    return files


def conf_folders() -> list[Path]:
    """Where `run.yaml`, presets and grids are searched: `./conf`, then clframe's own."""
    root = checkout()
    places = [Path.cwd() / "conf", root / "conf" if root else PACKAGE / "conf"]
    return _distinct(p for p in places if p.is_dir())


@remembered
def preset_files(kind: Kind) -> dict[str, Path]:
    """Name -> file for every preset of `kind`."""
    files: dict[str, Path] = {}
    for folder in conf_folders():
        for path in _named(folder / kind, "*.yaml"):
            _add(files, path, f"two {kind} presets are named {path.stem!r}")
    return files


def shown(path: Path) -> str:
    """`path` as a person would write it: from here, or from clframe's own folder."""
    root, path = checkout() or PACKAGE, path.absolute()
    for base, name in ((Path.cwd(), "."), (root, "<clframe>")):
        if path.is_relative_to(base) and path != base:
            return f"{name}/{path.relative_to(base)}"
    return str(path)


def _named(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.glob(pattern)):
        if not path.name.startswith(("_", ".")) and path.stem.isidentifier():
            yield path


def _add(files: dict[str, Path], path: Path, clash: str) -> None:
    """Note a file unless it is one already noted, reached by another path or copied unchanged."""
    known = files.setdefault(path.stem, path)
    if not known.samefile(path) and not filecmp.cmp(known, path, shallow=False):
        raise PluginError(f"{clash}:\n{known}\n{path}\nRename one of them.")


def _is_of(kind: Kind, path: Path) -> bool:
    """Whether a file of a mixed folder belongs to `kind`; files that are no plug-ins do not."""
    try:
        found = read(path, path.stem)
    except PluginError:
        return kind == "strategy"  # a broken file is reported once, by whoever looks it up
    return found is not None and found.is_class == (kind == "strategy")


def _distinct(paths: Iterable[Path]) -> list[Path]:
    seen: dict[Path, Path] = {}
    for path in paths:
        seen.setdefault(path.resolve(), path)
    return list(seen.values())
