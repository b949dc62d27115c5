"""clframe: continual learning watched at every iteration."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clframe.engine.load import load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Import torch only when a run is loaded."""
    if name == "load_run":
        return importlib.import_module("clframe.engine.load").load_run
    raise AttributeError(f"module 'clframe' has no attribute {name!r}")
