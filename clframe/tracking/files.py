"""Files that readers see whole, old or new, and values that any JSON reader can read."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic_core

_ABSOLUTE = re.compile(r"(?<![\w.:/~])/(?:[^\s/'\":]+/)+")


def replace_file(path: Path, data: str | bytes) -> None:
    """Write `data` beside `path` and move it there: a reader or a kill never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Indented JSON of `plain(value)`, ending in a newline."""
    text = pydantic_core.to_json(value, indent=1, inf_nan_mode="null", fallback=plain)
    return f"{text.decode()}\n"  # json's own encoder indents 20 times more slowly


def plain(value: Any, *, infinities: bool = False) -> Any:
    """`value` in JSON's own types: arrays as lists, keys as strings, NaN and infinities as None.

    With `infinities` these are "inf" and "-inf", to be told from what is undefined.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(member, infinities=infinities) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(member, infinities=infinities) for member in value]
    if isinstance(value, float):
        if infinities and math.isinf(value):
            return str(value)
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain(value.tolist(), infinities=infinities)
    return str(value)


def without_paths(value: Any) -> Any:
    """`value` with the folders cut off every absolute path in its strings."""
    if isinstance(value, str):
        return _ABSOLUTE.sub(".../", value)
    if isinstance(value, dict):
        return {key: without_paths(member) for key, member in value.items()}
    if isinstance(value, list):
        return [without_paths(member) for member in value]
    return value
