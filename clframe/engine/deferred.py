"""Packages that our dependencies import for features no run uses: loaded when first used."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Name:
    """Stands for `module.name` until it is called, or asked what is an instance of it."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def __instancecheck__(self, thing: object) -> bool:
        """Nothing is an instance of a class that has not been defined yet."""
        unused = isinstance(sys.modules.get(self.module), _Shell)
        return not unused and isinstance(thing, self._real())

    def _real(self) -> Any:
        module = importlib.import_module(self.module)
        if isinstance(module, _Shell):
            module.fill()
        return getattr(module, self.name)


def _disable(function: Any = None, *args: Any, **options: Any) -> Any:
    """Leave what torch and Lightning mark as not to be compiled alone: nobody compiles it."""
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    if package in ("torch", "lightning"):
        return function
    return _Name("torch._dynamo", "disable")(function, *args, **options)


class _Utils:
    """What DDP asks the compiler's utilities, and, for any other question, those themselves."""

    def get_optimize_ddp_mode(self) -> str:
        return "ddp_optimizer"  # unless it has been set, by which the compiler is there

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch._dynamo.utils"), name)


# Avalanche imports the first four, to log, to download and for one of its methods. torchmetrics
# imports the fifth only to give it back a name that it used to have. The last two are torch's
# compiler, a second and 80 MB that every optimizer wants just to say that it is not to be compiled.
DEFERRED: dict[str, dict[str, Any]] = {
    "wandb": {},
    "gdown": {},
    "qpsolvers": {},
    "GPUtil": {},
    "scipy.signal": {"hamming": _Name("scipy.signal.windows", "hamming")},
    "torchvision.ops.roi_align": {
        name: _Name("torchvision.ops.roi_align", name) for name in ("roi_align", "RoIAlign")
    },
    "torch._dynamo": {
        "OptimizedModule": _Name("torch._dynamo", "OptimizedModule"),
        "disable": _disable,
        "utils": _Utils(),
        "graph_break": lambda *_, **__: None,  # where nothing is compiled it does nothing
    },
}


def defer() -> None:
    """From now on let this process import the packages in `DEFERRED` without running them.

    Each runs as soon as anything is taken from it, so nobody can tell, but by the clock.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the packages of the list where they are, and puts off running them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(fullname, path) if fullname in DEFERRED else None
        if found is None or found.loader is None:
            return None  # it is for the other finders, if for any
        found.loader = _Later(found.loader)
        return found


class _Later(Loader):
    """Leaves a module as an empty shell that `inner` fills when it is used."""

    def __init__(self, inner: Loader) -> None:
        self.inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.package = module.__dict__.pop("__path__", None)  # a submodule's import then asks it
        self.lock, self.filled = threading.RLock(), False
        module.__dict__.update(DEFERRED[module.__name__])
        module.__class__ = _Shell

    def fill(self, module: ModuleType) -> None:
        """Run the module; whatever it raises is raised again by the next use."""
        with self.lock:
            if self.filled:
                return
            self.filled = True
            module.__class__ = ModuleType
            if self.package is not None:
                module.__path__ = self.package
            module.__loader__ = self.inner
            assert module.__spec__ is not None
            module.__spec__.loader = self.inner
            try:
                self.inner.exec_module(module)
            except BaseException:
                module.__spec__.loader = module.__loader__ = self
                self.exec_module(module)
                raise


class _Shell(ModuleType):
    """A module that has not run; it has what the import system gives it, and no more."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__" and "importlib" not in sys._getframe(1).f_code.co_filename:
            raise AttributeError(name)  # `from package import name` asks, and may do without
        self.fill()
        with suppress(AttributeError):
            return getattr(self, name)
        with suppress(ModuleNotFoundError):  # ... though it may have meant a submodule
            return importlib.import_module(f"{self.__name__}.{name}")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def fill(self) -> None:
        later = self.__spec__.loader if self.__spec__ else None
        if isinstance(later, _Later):
            later.fill(self)
