"""What a plug-in file declares, read from its syntax tree so that nothing has to be imported."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clframe.errors import PluginError

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Option:
    """One keyword-only argument; `default` is source text, None when the argument is required."""

    name: str
    default: str | None = None
    annotation: str | None = None

    def __str__(self) -> str:
        kind = f": {self.annotation}" if self.annotation else ""
        return self.name + kind + (f" = {self.default}" if self.default is not None else "")

    def literal(self) -> Any:
        """The default when it is a plain literal, else `...`."""
        try:
            return ... if self.default is None else ast.literal_eval(self.default)
        except (ValueError, SyntaxError):
            return ...


@dataclass(frozen=True)
class Declared:
    """A class or function as its source describes it: `doc` its file's first line, `about` its own.

    `takes_any`: it has `**kwargs`. Not `complete`: what it inherits from another file is not known.
    `said`: the class attributes that clframe asks about without importing the class.
    """

    symbol: str
    line: int
    doc: str
    is_wrapper: bool
    options: tuple[Option, ...]
    about: str = ""
    takes_any: bool = False
    is_class: bool = True
    complete: bool = True
    said: Mapping[str, Any] = field(default_factory=dict)


SAID = ("usual_net", "usual_setting", "only_forgets", "forgets_by")
WRAPPERS = {"Wrapper", "ForgetSteps"}
OURS = {"Strategy", *WRAPPERS, "Module", "object", "ABC", "Protocol", "Generic"}


def plain(name: str) -> str:
    """The form in which file and class names are compared: `er_ace` and `ErAce` are one."""
    return name.replace("_", "").lower()


def read(path: Path, symbol: str) -> Declared | None:
    """What `path` says of the class or function whose plain name is that of `symbol`."""
    stat = path.stat()
    return _read(path, symbol, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _read(path: Path, symbol: str, _mtime: int, _size: int) -> Declared | None:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as e:
        line = getattr(e, "lineno", None) or 1
        raise PluginError(
            f"{path}, line {line}: {type(e).__name__}: {getattr(e, 'msg', e)}\n"
            "This file cannot be read as Python; mend that line."
        ) from None
    top = {n.name: n for n in tree.body if isinstance(n, Definition)}
    alike = (n for n in top.values() if plain(n.name) == plain(symbol))
    node = top.get(symbol) or next(alike, None)
    if node is None:
        return None
    doc = _first_line(ast.get_docstring(tree)) or _first_line(ast.get_docstring(node))
    signature = _signature(node, top)
    options = _options(signature) if signature else ()
    takes_any = bool(signature and signature.args.kwarg)
    is_wrapper = isinstance(node, ast.ClassDef) and _wraps(node, top)
    is_class = isinstance(node, ast.ClassDef)
    complete = _complete(node, top)
    about = ast.get_docstring(node) or ""
    facts = (node.name, node.lineno, doc, is_wrapper, options)
    return Declared(*facts, about, takes_any, is_class, complete, _said(node))


def _said(node: Definition) -> dict[str, Any]:
    """Those of `SAID` that are assigned a literal, with or without an annotation."""
    found = {}
    for member in node.body:
        if isinstance(member, ast.Assign | ast.AnnAssign) and member.value is not None:
            target = member.target if isinstance(member, ast.AnnAssign) else member.targets[0]
            if ast.unparse(target) in SAID:
                found[ast.unparse(target)] = ast.literal_eval(member.value)
    return found


def _first_line(doc: str | None) -> str:
    return doc.strip().splitlines()[0] if doc and doc.strip() else ""


def _bases(node: ast.ClassDef) -> list[str]:
    return [b.attr if isinstance(b, ast.Attribute) else getattr(b, "id", "") for b in node.bases]


def _wraps(node: ast.ClassDef, top: dict[str, Definition]) -> bool:
    for name in _bases(node):
        base = top.get(name)
        if name in WRAPPERS or (isinstance(base, ast.ClassDef) and _wraps(base, top)):
            return True
    return False


def _complete(node: Definition, top: dict[str, Definition]) -> bool:
    """Whether every base is defined in this file or known to bring no options of its own."""
    if isinstance(node, ast.FunctionDef):
        return True
    for name in _bases(node):
        base = top.get(name)
        if name not in OURS and not (base and _complete(base, top)):
            return False
    return True


def _signature(node: Definition, top: dict[str, Definition]) -> ast.FunctionDef | None:
    """The function that takes the options: itself, or `__init__` of the class or of a base here."""
    if isinstance(node, ast.FunctionDef):
        return node
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return member
    for name in _bases(node):
        base = top.get(name)
        found = _signature(base, top) if isinstance(base, ast.ClassDef) else None
        if found:
            return found
    return None


def _options(function: ast.FunctionDef) -> tuple[Option, ...]:
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return tuple(
        Option(
            arg.arg,
            None if default is None else ast.unparse(default),
            ast.unparse(arg.annotation) if arg.annotation else None,
        )
        for arg, default in pairs
    )


def inspected(found: Callable[..., Any], is_wrapper: bool) -> Declared:
    """The same facts about a live class or function, for those whose source does not show them."""
    options: list[Option] = []
    takes_any = False
    for p in parameters(found):
        if p.kind is p.VAR_KEYWORD:
            takes_any = True
        elif p.kind is p.KEYWORD_ONLY:
            default = None if p.default is p.empty else repr(p.default)
            kind = None if p.annotation is p.empty else inspect.formatannotation(p.annotation)
            options.append(Option(p.name, default, kind.strip("'") if kind else None))
    docs = inspect.getdoc(inspect.getmodule(found)), inspect.getdoc(found)
    doc = _first_line(docs[0]) or _first_line(docs[1])
    name = getattr(found, "__name__", type(found).__name__)
    facts = (name, 1, doc, is_wrapper, tuple(options))
    about, is_class = docs[1] or "", inspect.isclass(found)
    said = {name: getattr(found, name) for name in SAID if hasattr(found, name)}
    return Declared(*facts, about, takes_any, is_class, said=said)


def parameters(found: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters a call takes; none where torch's own catch-all constructor is inherited."""
    if inspect.isclass(found) and found.__init__.__module__.startswith("torch."):
        return []
    return list(inspect.signature(found).parameters.values())
