"""One plug-in: what it is called, where it lies, what it takes, and how it is imported."""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clframe.errors import PluginError, nearest
from clframe.registry.declared import Declared, Option, inspected, parameters, read
from clframe.registry.search import FOLDER, Kind, folders, shown

SHORT = 5  # names of fewer letters are too like each other
ALMOST = 0.85  # how alike two names are of which one is taken for a slip of the other


@dataclass(frozen=True)
class Plugin:
    """A strategy or scenario by name; nothing is imported before `load`.

    `module` and `symbol` say what to import; `path` is the source file, None when it has none.
    """

    name: str
    kind: Kind
    module: str
    symbol: str
    path: Path | None
    origin: str

    @property
    def declared(self) -> Declared | None:
        """What the source shows, without importing; None when it does not show this symbol."""
        found = read(self.path, self.symbol) if self.path else None
        if found is None and self.origin == "folder":
            raise PluginError(
                f"{self.path} defines no class or function named like the file.\n"
                f"Name it {camel(self.name)!r} (a class) or {self.name!r} (a function)."
            )
        return found

    @property
    def facts(self) -> Declared:
        """What is known of it, by importing it where the source alone does not say."""
        found = self.declared
        if found is not None and found.complete:
            return found
        loaded = self.load()
        return inspected(loaded, _is_wrapper(loaded))

    @property
    def doc(self) -> str:
        """The first line of the docstring of its file."""
        found = self.declared
        return found.doc if found else ""

    @property
    def is_wrapper(self) -> bool:
        """Whether it is a strategy around another one."""
        return self.kind == "strategy" and self.facts.is_wrapper

    @property
    def usual_net(self) -> str | None:
        """The network of a strategy that cannot work on any."""
        net: str | None = self.facts.said.get("usual_net")
        return net

    @property
    def usual_setting(self) -> str | None:
        """The setting of a strategy that cannot work in any."""
        setting: str | None = self.facts.said.get("usual_setting")
        return setting

    @property
    def forgets_by(self) -> tuple[str, ...]:
        """Its options that nothing but forgetting uses."""
        return tuple(self.facts.said.get("forgets_by", ()))

    @property
    def only_forgets(self) -> bool:
        """Whether it is a wrapper that learns exactly as its base does."""
        return bool(self.facts.said.get("only_forgets"))

    @property
    def options(self) -> tuple[Option, ...]:
        """Its keyword-only arguments."""
        return self.facts.options

    def load(self) -> Callable[..., Any]:
        """Import it; whatever goes wrong on the way is a PluginError that names the place."""
        module = _import(self)
        declared = read(self.path, self.symbol) if self.path else None
        found: Any = module
        for name in (declared.symbol if declared else self.symbol).split("."):
            if not hasattr(found, name):
                known = [n for n in dir(module) if not n.startswith("_")]
                raise PluginError(f"{self.module} has no {name!r}.{nearest(name, known)}")
            found = getattr(found, name)
        if not callable(found):
            raise PluginError(f"{self.module}:{self.symbol} is not a class or function")
        result: Callable[..., Any] = found
        return result

    def check_call(self, options: dict[str, Any]) -> None:
        """Import it and make sure that it can be called with `options`."""
        found = self.load()
        _check_hooks(self.name, found)
        taken = parameters(found)
        names = [p.name for p in taken if p.kind is p.KEYWORD_ONLY]
        if any(p.kind is p.VAR_KEYWORD for p in taken):
            return
        for name in options:
            if name not in names:
                raise PluginError(
                    f"{self.name} takes no option {name!r}.{nearest(name, names)}\n"
                    f"It takes: {', '.join(names) or 'none'}."
                )
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = 1 if self.is_wrapper else 0
        others = [p.name for p in taken if p.kind in positional][given:]
        if others:
            raise PluginError(
                f"{self.name} takes {others[0]!r}, which nothing provides.\n"
                "Options are keyword-only arguments: put a * before them in the signature."
            )


def camel(name: str) -> str:
    """`er_ace` -> `ErAce`."""
    return "".join(part.capitalize() for part in name.split("_"))


def dotted(kind: Kind, text: str) -> Plugin:
    """The plug-in at `package.module:Class`; its name is that of the class."""
    module, _, symbol = text.partition(":")
    path = _source(module)
    if path is None and module not in sys.builtin_module_names:
        raise PluginError(
            f"no module {module!r}, wanted for the {kind} {text!r}.\n"
            "It must be importable from here: installed, or below the current folder."
        )
    return Plugin(symbol.rpartition(".")[2], kind, module, symbol, path, "dotted path")


def from_entry_point(kind: Kind, name: str, value: str, distribution: str) -> Plugin:
    """The plug-in that an installed package offers under `name`."""
    module, _, symbol = value.partition(":")
    origin = f"package {distribution}"
    return Plugin(name, kind, module.strip(), symbol.strip() or name, _source(module), origin)


def _source(module: str) -> Path | None:
    """The source file of `module`, found without importing its parents."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))  # `clframe` as a script does not search here by itself
    parts = module.strip().split(".")
    try:
        spec = importlib.util.find_spec(parts[0]) if parts[0] else None
    except (ImportError, ValueError):
        return None
    name = parts[0]
    places = list((spec and spec.submodule_search_locations) or ())
    for part in parts[1:]:
        name = f"{name}.{part}"
        try:
            spec = importlib.machinery.PathFinder.find_spec(name, places) if places else None
            places = list((spec and spec.submodule_search_locations) or ())
        except KeyError:  # a folder without __init__.py wants its parents imported
            spec, places = None, [str(Path(p) / part) for p in places]
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def _import(plugin: Plugin) -> Any:
    try:
        if plugin.origin == "folder":
            return _import_file(plugin)
        importlib.invalidate_caches()
        return importlib.import_module(plugin.module)
    except (Exception, SystemExit) as e:
        sys.modules.pop(plugin.module, None)
        raise PluginError(_blame(plugin, e)) from None


def _import_file(plugin: Plugin) -> Any:
    """Import exactly the file that was found, under its name below `clframe.strategies`."""
    loaded = sys.modules.get(plugin.module)
    if loaded is not None and Path(loaded.__file__ or "").resolve() == plugin.path:
        return loaded
    package = importlib.import_module(f"clframe.{FOLDER[plugin.kind]}")
    spec = importlib.util.spec_from_file_location(plugin.module, plugin.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[plugin.module] = module
    spec.loader.exec_module(module)
    setattr(package, plugin.name, module)
    return module


def _blame(plugin: Plugin, error: BaseException) -> str:
    """Where in the plug-in's own file an import went wrong, and what went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(f.filename, f.lineno) for f in frames]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    own = [line for file, line in places if plugin.path and Path(file).resolve() == plugin.path]
    where = f"{plugin.path}, line {own[-1]}" if own else str(plugin.path or plugin.module)
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    return (
        f"the {plugin.kind} {plugin.name!r} cannot be imported: {where}: {said}\n"
        f"Mend it; `clframe check {plugin.name}` tries it alone."
    )


def _check_hooks(name: str, found: Callable[..., Any]) -> None:
    """Refuse a strategy that has what is almost called like a hook: nothing would ever call it."""
    lineage = found.__mro__ if inspect.isclass(found) else ()
    ours = [c for c in lineage if c.__module__.startswith("clframe.core.")]
    if not any(c.__name__ == "Strategy" for c in ours):
        return
    known = {n for c in ours for n in (*vars(c), *vars(c).get("__annotations__", ()))}
    for cls in (c for c in lineage if c.__module__ == found.__module__):
        for own in (n for n in vars(cls) if len(n) >= SHORT and n not in known and n[0] != "_"):
            called = callable(getattr(cls, own))
            hooks = [h for h in known if callable(getattr(ours[0], h, None)) == called]
            close = difflib.get_close_matches(own, hooks, 1, ALMOST)
            if close:
                raise PluginError(
                    f"{name}: nothing asks for {cls.__name__}.{own}. Did you mean {close[0]!r}? "
                    "If not, give it a name less like that hook's."
                )


def _is_wrapper(found: Callable[..., Any]) -> bool:
    return inspect.isclass(found) and any(c.__name__ == "Wrapper" for c in found.__mro__)


def looked_in(kind: Kind) -> str:
    """The places a name of `kind` was searched in, for messages."""
    places = [shown(f) for f in folders(kind)]
    return ", ".join([*places, f"entry points clframe.{FOLDER[kind]}"])
