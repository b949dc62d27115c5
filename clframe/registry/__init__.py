"""Plug-ins by name: strategies and scenarios are found in folders and packages, imported last."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import entry_points

from clframe.errors import PluginError, nearest
from clframe.registry.declared import Declared, Option
from clframe.registry.plugin import Plugin, camel, dotted, from_entry_point, looked_in
from clframe.registry.search import (
    FOLDER,
    Kind,
    conf_folders,
    folders,
    plugin_files,
    preset_files,
    remembered,
    shown,
    snapshot,
)

__all__ = [
    "FOLDER",
    "Declared",
    "Kind",
    "Option",
    "Plugin",
    "camel",
    "conf_folders",
    "find",
    "folders",
    "plugin_names",
    "plugins",
    "preset_files",
    "shown",
    "snapshot",
    "split_chain",
    "unknown",
]


@remembered
def plugins(kind: Kind) -> dict[str, Plugin]:
    """Every plug-in of `kind` by name: from the folders, then from installed packages."""
    found = {
        name: Plugin(name, kind, f"clframe.{FOLDER[kind]}.{name}", name, path.resolve(), "folder")
        for name, path in plugin_files(kind).items()
    }
    for name, value, distribution in _offered(kind, tuple(sys.path)):
        plugin = from_entry_point(kind, name, value, distribution)
        known = found.setdefault(name, plugin)
        if known is not plugin and (plugin.path is None or known.path != plugin.path.resolve()):
            raise PluginError(
                f"two {FOLDER[kind]} are named {name!r}:\n{known.path or known.module}\n"
                f"{plugin.path or plugin.module} ({plugin.origin})\nRename one of them."
            )
    _refuse_clash_with_presets(kind, found)
    return dict(sorted(found.items()))


def plugin_names(kind: Kind) -> list[str]:
    """Every name of `kind` that a run may use: plug-ins and presets."""
    return sorted({*plugins(kind), *preset_files(kind)})


def find(kind: Kind, name: str) -> Plugin:
    """The plug-in called `name`, or the one at `package.module:Class`."""
    known = plugins(kind)
    if name in known:
        return known[name]
    if ":" in name:
        return dotted(kind, name)
    raise unknown(kind, name)


def unknown(kind: Kind, name: str) -> PluginError:
    """The error for a name that is neither plug-in nor preset."""
    known = plugin_names(kind)
    other: Kind = "scenario" if kind == "strategy" else "strategy"
    hint = nearest(name, known)
    if not hint and name in plugin_names(other):
        hint = f" {name!r} is a {other}."
    return PluginError(
        f"no {kind} named {name!r}.{hint}\n"
        f"Known: {', '.join(known) or 'none'}.\nLooked in: {looked_in(kind)}."
    )


def split_chain(text: str) -> list[str]:
    """`refresh+replay` -> its names, outermost wrapper first, the base last."""
    names = [name.strip() for name in text.split("+")]
    if not all(names):
        raise PluginError(
            f"{text!r} has an empty name between its '+'.\n"
            "Write wrapper+strategy, as in refresh+replay."
        )
    return names


@functools.lru_cache(maxsize=8)
def _offered(kind: Kind, _path: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    """(name, value, distribution) of the entry points of `kind`, each once."""
    offers = {
        (e.name, e.value, e.dist.name if e.dist else "?")
        for e in entry_points(group=f"clframe.{FOLDER[kind]}")
    }
    return tuple(sorted(offers))


def _refuse_clash_with_presets(kind: Kind, found: dict[str, Plugin]) -> None:
    for name, path in preset_files(kind).items():
        if name in found:
            raise PluginError(
                f"{name!r} is both a {kind} and a preset:\n"
                f"{found[name].path or found[name].module}\n{path}\nRename one of them."
            )
