"""From the names in a configuration to plug-ins with their options: chains, presets, checks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clframe.config.fits import misfit
from clframe.config.problems import MISSING, Locate, Problem, brief, fail, look_up, unknown_key
from clframe.config.read import read_yaml
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError, PluginError, nearest
from clframe.registry import Kind, Plugin, find, plugin_names, preset_files, shown, split_chain

KINDS: tuple[Kind, Kind] = ("strategy", "scenario")
INJECTED = ("seed", "root")  # what the run itself tells a scenario that takes it


@dataclass(frozen=True)
class Choice:
    """One plug-in a run uses, by its own name or a preset's, and all that sets its options."""

    name: str
    plugin: Plugin
    preset: dict[str, Any]
    given: Mapping[str, Mapping[str, Any]]

    @property
    def keys(self) -> list[str]:
        """Where under `options` this run may set its arguments; the last wins."""
        return list(dict.fromkeys([self.plugin.name, self.name]))

    @property
    def options(self) -> dict[str, Any]:
        """All its arguments: the preset's, the plug-in's, the preset name's; a later one wins."""
        merged = dict(self.preset)
        for key in self.keys:
            merged |= self.given.get(key, {})
        return merged

    @property
    def contested(self) -> list[str]:
        """What the preset sets, and the run sets otherwise, but by the plug-in's name alone."""
        if self.name == self.plugin.name:
            return []
        ours, own = self.given.get(self.plugin.name, {}), self.given.get(self.name, {})
        return [k for k, v in self.preset.items() if k not in own and ours.get(k, v) != v]

    def source_of(self, argument: str, locate: Locate) -> tuple[str, str]:
        """Where an argument was set, and by what key."""
        for key in reversed(self.keys):
            if argument in self.given.get(key, {}):
                return locate(f"options.{key}.{argument}")
        if argument in self.preset:
            return shown(preset_files(self.plugin.kind)[self.name]), f"options.{argument}"
        return locate(f"options.{self.name}.{argument}")


def resolve_options(cfg: RunConfig, kind: Kind) -> list[Choice]:
    """The plug-ins that `cfg` names, the outermost wrapper first; a scenario is the only one."""
    return choices(kind, getattr(cfg, kind), cfg.options)


def scenario_arguments(cfg: RunConfig) -> dict[str, Any]:
    """What to call the scenario with: its options, and the run's seed and root if it takes them."""
    (choice,) = resolve_options(cfg, "scenario")
    taken = {o.name for o in choice.plugin.options}
    told = {"seed": cfg.seed, "root": cfg.data.root}
    own = {k: v for k, v in told.items() if k in taken and v is not None}
    return own | choice.options


def choices(kind: Kind, text: str, options: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    """Look every name of `text` up; a chain must be wrappers around one strategy."""
    names = split_chain(text) if kind == "strategy" else [text]
    found = [_choice(kind, name, options) for name in names]
    if kind == "strategy":
        _check_chain(found)
    return found


def _choice(kind: Kind, name: str, options: Mapping[str, Mapping[str, Any]]) -> Choice:
    path = preset_files(kind).get(name)
    if path is None:
        plugin = find(kind, name)
        return Choice(plugin.name, plugin, {}, options)
    target, preset = read_preset(kind, path)
    return Choice(name, find(kind, target), preset, options)


def read_preset(kind: Kind, path: Path) -> tuple[str, dict[str, Any]]:
    """The plug-in a preset names, and the options it sets."""
    stat = path.stat()
    return _preset(kind, path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _preset(kind: Kind, path: Path, _mtime: int, _size: int) -> tuple[str, dict[str, Any]]:
    content = read_yaml(path)
    where = shown(path)
    known = ["plugin", "options"]
    fail(Problem(where, k, content[k], unknown_key(k, known)) for k in content if k not in known)
    target, options = content.get("plugin", MISSING), content.get("options") or {}
    if not isinstance(target, str):
        fail([Problem(where, "plugin", target, f"expected the name of a {kind}")])
    if not isinstance(options, dict):
        fail([Problem(where, "options", options, "expected a mapping of arguments")])
    return str(target), options


def _check_chain(found: list[Choice]) -> None:
    names = [c.name for c in found]
    wraps = [c.plugin.is_wrapper for c in found]
    sound = "+".join([n for n, w in zip(names, wraps, strict=True) if w])
    base = next((n for n, w in zip(names, wraps, strict=True) if not w), "replay")
    if wraps[-1]:
        raise PluginError(
            f"{names[-1]!r} is a wrapper and needs a strategy to wrap, after it.\n"
            f"Write {sound}+{base}."
        )
    for name, wrapper in zip(names[:-1], wraps[:-1], strict=True):
        if not wrapper:
            raise PluginError(
                f"{name!r} is not a wrapper, so nothing can stand after it.\n"
                f"Only the last name of a chain is a strategy: {sound + '+' * bool(sound)}{name}."
            )
    plugins = [c.plugin.name for c in found]
    for name, plugin in zip(names, plugins, strict=True):
        if plugins.count(plugin) > 1:
            raise PluginError(f"{name!r} wraps twice, by the same options.\nLeave one of them out.")


def check_plugins(data: Mapping[str, Any], locate: Locate) -> list[Problem]:
    """What is wrong with the plug-ins a configuration names, and with their options.

    Looks only at what has the right type; the schema has reported the rest.
    """
    problems: list[Problem] = []
    used: list[str] = []
    options = data.get("options", {})
    options = options if isinstance(options, dict) else {}
    options = {k: v for k, v in options.items() if isinstance(v, dict)}
    named = [kind for kind in KINDS if isinstance(data.get(kind), str)]
    for kind in named:
        try:
            found = choices(kind, data[kind], options)
        except ClframeError as e:
            problems.append(Problem(*locate(kind), data[kind], str(e)))
            continue
        for choice in found:
            used += choice.keys
            problems += _check_options(choice, data, locate)
    if not problems and len(named) == len(KINDS):
        problems += [_unused(k, options[k], used, locate) for k in options if k not in used]
    return problems


def _check_options(choice: Choice, data: Mapping[str, Any], locate: Locate) -> list[Problem]:
    problems = []
    facts = choice.plugin.facts
    known = {o.name: o for o in facts.options}
    for name, value in choice.options.items():
        if name not in known and facts.takes_any:
            continue
        takes = f" It takes: {', '.join(known) or 'no options'}."
        wrong = (
            misfit(known[name], value)
            if name in known
            else f"{choice.plugin.name} takes no such option.{nearest(name, known) or takes}"
        )
        if wrong:
            problems.append(Problem(*choice.source_of(name, locate), value, wrong))
    for name in choice.contested:
        value = choice.given[choice.plugin.name][name]
        text = f"the preset {choice.name} sets {name} itself, to {brief(choice.preset[name])}; say "
        text += f"which one holds with options.{choice.name}.{name}"
        problems.append(Problem(*locate(f"options.{choice.plugin.name}.{name}"), value, text))
    told = {"seed": data.get("seed", 0), "root": look_up(data, "data.root")}
    for name, option in known.items():
        injected = choice.plugin.kind == "scenario" and told.get(name) not in (None, MISSING)
        if option.default is None and name not in choice.options and not injected:
            where, written = locate(f"options.{choice.name}.{name}")
            way = " It is also set by data.root." if name == "root" else ""
            text = f"missing; {choice.plugin.name} needs {option}.{way}"
            problems.append(Problem(where, written, MISSING, text))
    return problems


def _unused(key: str, value: Any, used: list[str], locate: Locate) -> Problem:
    names = {n for kind in KINDS for n in plugin_names(kind)}
    uses = f"This run uses: {', '.join(dict.fromkeys(used))}."
    if key in names:
        message = f"options for a plug-in that is not used. {uses}"
    else:
        message = f"no plug-in of that name is used.{nearest(key, used)} {uses}"
    return Problem(*locate(f"options.{key}"), value, message)
