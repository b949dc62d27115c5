"""Whether a value fits a plug-in's option, judged by its annotation and default as written."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from clframe.registry import Option

Test = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SIMPLE: dict[str, tuple[str, Test]] = {
    "int": ("a whole number", _whole),
    "float": ("a number", _number),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "str": ("text", lambda v: isinstance(v, str)),
    "None": ("null", lambda v: v is None),
    "list": ("a list", lambda v: isinstance(v, list)),
    "tuple": ("a list", lambda v: isinstance(v, list)),
    "Sequence": ("a list", lambda v: isinstance(v, list)),
    "Iterable": ("a list", lambda v: isinstance(v, list)),
    "dict": ("a mapping", lambda v: isinstance(v, dict)),
    "Mapping": ("a mapping", lambda v: isinstance(v, dict)),
    "Path": ("a path", lambda v: isinstance(v, str)),
}


def misfit(option: Option, value: Any) -> str | None:
    """What was expected when `value` clearly does not fit `option`; None when it may."""
    wanted = _wanted(option)
    if wanted is None:
        return None
    words, fits = wanted
    if not fits(value):
        return f"expected {words}"
    default = option.literal()
    if _whole(default) and default > 0 and _number(value) and value < 0:
        return "expected a count, at least 0"
    return None


def _wanted(option: Option) -> tuple[str, Test] | None:
    if option.annotation is not None:
        try:
            return _of(ast.parse(option.annotation, mode="eval").body)
        except SyntaxError:
            return None
    default = option.literal()
    if default is ... or default is None:
        return None
    if _whole(default):
        return SIMPLE["float"]  # nothing says that only whole numbers make sense here
    return SIMPLE.get(type(default).__name__)


def _of(node: ast.expr) -> tuple[str, Test] | None:
    """The words and the test for one annotation; None for any that is not understood."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # a quoted annotation
            return _of(ast.parse(node.value, mode="eval").body)
        return SIMPLE["None"] if node.value is None else None
    if isinstance(node, ast.Name):
        return SIMPLE.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either(_of(node.left), _of(node.right))
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return _subscript(node.value.id, node.slice)
    return None


def _subscript(name: str, inner: ast.expr) -> tuple[str, Test] | None:
    if name == "Literal":
        choices = ast.literal_eval(inner)
        allowed = choices if isinstance(choices, tuple) else (choices,)
        words = "one of " + ", ".join(map(str, allowed))
        return words, lambda v: any(v == a and type(v) is type(a) for a in allowed)
    if name == "Optional":
        return _either(_of(inner), SIMPLE["None"])
    if name == "Union" and isinstance(inner, ast.Tuple):
        found = _of(inner.elts[0])
        for other in inner.elts[1:]:
            found = _either(found, _of(other))
        return found
    outer = SIMPLE.get(name)
    member = _of(_member(inner)) if name in ("list", "tuple", "Sequence", "Iterable") else None
    if outer is None or member is None:
        return outer
    return f"a list, each member {member[0]}", lambda v: outer[1](v) and all(map(member[1], v))


def _member(inner: ast.expr) -> ast.expr:
    """The type all members share; an unknown one where a tuple names several."""
    if not isinstance(inner, ast.Tuple):
        return inner
    kinds = {ast.unparse(e) for e in inner.elts} - {"..."}
    return inner.elts[0] if len(kinds) == 1 else ast.Name("object")


def _either(
    left: tuple[str, Test] | None, right: tuple[str, Test] | None
) -> tuple[str, Test] | None:
    if left is None or right is None:
        return None
    return f"{left[0]} or {right[0]}", lambda v: left[1](v) or right[1](v)
