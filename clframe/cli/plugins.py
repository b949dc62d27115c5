"""What there is: plug-ins and presets by name, read from their source."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import yaml

from clframe.errors import ClframeError, PluginError, nearest
from clframe.registry import Kind, Plugin, find, plugin_names, plugins, preset_files, shown

KINDS: tuple[Kind, Kind] = ("strategy", "scenario")
WIDTH = 100


def listing() -> list[str]:
    """All names by kind; one that cannot be read is listed with the reason."""
    names: dict[str, list[str]] = {"strategies": [], "wrappers": [], "scenarios": []}
    broken = []
    for kind in KINDS:
        found = plugins(kind)
        for name in plugin_names(kind):
            try:
                target = name if name in found else _named_in(kind, name)
                declared = find(kind, target).declared
            except ClframeError as error:
                broken.append(f"broken      {name}: {str(error).splitlines()[0]}")
                continue
            wraps = bool(declared and declared.is_wrapper)
            group = "scenarios" if kind == "scenario" else "wrappers" if wraps else "strategies"
            names[group].append(name)
    lines = []
    for group, members in names.items():
        text = " ".join(members) or "-"
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=f"{group:12}", subsequent_indent=" " * 12
        )
    return lines + broken


def description(name: str) -> list[str]:
    """Doc, source, options with their defaults, and presets of one plug-in or preset."""
    for kind in KINDS:
        found = plugins(kind)
        if name in found:
            return list(_plugin(found[name]))
        if name in preset_files(kind):
            return list(_preset(kind, name))
    known = [n for kind in KINDS for n in plugin_names(kind)]
    raise PluginError(
        f"no strategy or scenario named {name!r}.{nearest(name, known)}\nKnown: {', '.join(known)}."
    )


def _plugin(plugin: Plugin) -> Iterator[str]:
    facts = plugin.facts
    yield f"{plugin.name}: a {'wrapper' if plugin.is_wrapper else plugin.kind}"
    yield from (f"  {line}" for line in [facts.doc, "", *facts.about.splitlines()])
    yield ""
    yield f"source   {shown(plugin.path) if plugin.path else plugin.module}:{facts.line}"
    options = [str(o) + "  (required)" * (o.default is None) for o in facts.options]
    yield from _block("options", options)
    mine = []
    for name, path in preset_files(plugin.kind).items():
        target, sets = _target(plugin.kind, name)
        if target == plugin.name:
            mine.append(f"{name}  {_settings(sets)}  {shown(path)}")
    yield from _block("presets", mine)
    if plugin.is_wrapper:
        yield f"use      strategy={plugin.name}+replay"
    else:
        yield f"use      {plugin.kind}={plugin.name}  options.{plugin.name}.<option>=<value>"


def _preset(kind: Kind, name: str) -> Iterator[str]:
    from clframe.config.problems import brief

    target, options = _target(kind, name)
    yield f"{name}: a preset of the {kind} {target}"
    yield f"source   {shown(preset_files(kind)[name])}"
    yield from _block("sets", [f"{k} = {brief(v)}" for k, v in options.items()])
    yield f"use      {kind}={name}  options.{name}.<option>=<value>"
    yield ""
    if target in plugins(kind):
        yield from _plugin(plugins(kind)[target])


def _named_in(kind: Kind, preset: str) -> str:
    """The plug-in that a preset names, read without the checks, whose imports take long.

    A file that is not plainly in order goes through them, for their error.
    """
    try:
        content = yaml.safe_load(preset_files(kind)[preset].read_bytes())
    except (yaml.YAMLError, OSError):
        content = None
    if isinstance(content, dict) and content.keys() <= {"plugin", "options"}:
        target, options = content.get("plugin"), content.get("options") or {}
        if isinstance(target, str) and "${" not in target and isinstance(options, dict):
            return target
    return _target(kind, preset)[0]


def _target(kind: Kind, name: str) -> tuple[str, dict[str, object]]:
    from clframe.config.resolve import read_preset

    return read_preset(kind, preset_files(kind)[name])


def _settings(options: dict[str, object]) -> str:
    from clframe.config.problems import brief

    return " ".join(f"{k}={brief(v)}" for k, v in options.items())


def _block(title: str, lines: list[str]) -> Iterator[str]:
    for i, line in enumerate(lines or ["none"]):
        yield f"{title if not i else '':9}{line}"
