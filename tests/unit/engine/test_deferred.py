"""Deferred packages: found at once, run at their first use, and otherwise like any other."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clframe.engine import deferred


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `late` that notes each time it runs, and is on the list, with one known name."""
    folder = tmp_path / "late"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pathlib import Path\n"
        "Path(__file__).with_name('ran').open('a').write('x')\n"
        "answer = 42\n"
        "from late import below\n"
    )
    (folder / "below.py").write_text("deep = 7\n")
    (folder / "aside.py").write_text("")
    monkeypatch.setitem(deferred.DEFERRED, "late", {"old": lambda: "old name"})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(tmp_path)
    deferred.defer()
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == "late"]:
        del sys.modules[name]


def ran(package: Path) -> int:
    note = package / "ran"
    return len(note.read_text()) if note.exists() else 0


def test_a_module_runs_once_at_its_first_use(package: Path) -> None:
    late = importlib.import_module("late")
    assert late.__name__ == "late" and ran(package) == 0
    assert late.answer == 42 and late.below.deep == 7
    assert ran(package) == 1 and importlib.import_module("late") is late
    with pytest.raises(AttributeError, match="nothing"):
        _ = late.nothing
    assert ran(package) == 1


def test_what_is_known_of_it_is_told_without_running_it(package: Path) -> None:
    late = importlib.import_module("late")
    names: dict[str, Any] = {}
    exec("from late import old", names)
    assert hasattr(late, "old") and late.old() == names["old"]() == "old name"
    assert ran(package) == 0
    assert late.answer == 42 and late.old() == "old name"


@pytest.mark.parametrize(
    "words", ["from late import answer", "import late.below", "from late import aside"]
)
def test_taking_a_name_or_a_submodule_from_it_runs_it(package: Path, words: str) -> None:
    exec(words, {})
    assert ran(package) == 1


def test_a_name_stands_for_what_it_will_be(package: Path) -> None:
    (package / "__init__.py").write_text("class Kind:\n    pass\n")
    name = deferred._Name("late", "Kind")
    deferred.DEFERRED["late"]["Kind"] = name
    late = importlib.import_module("late")
    assert not isinstance(3, name) and late.Kind is name  # type: ignore[arg-type]
    made = name()
    assert type(made).__name__ == "Kind" and late.Kind is type(made)
    assert isinstance(made, name) and not isinstance(3, name)  # type: ignore[arg-type]


def test_one_that_breaks_says_so_at_every_use(package: Path) -> None:
    (package / "__init__.py").write_text("raise ImportError('broken inside')\n")
    late = importlib.import_module("late")
    for _ in range(2):
        with pytest.raises(ImportError, match="broken inside"):
            _ = late.answer


def test_one_that_is_not_installed_is_missing_at_once(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(deferred.DEFERRED, "never_installed", {})
    with pytest.raises(ModuleNotFoundError, match="never_installed"):
        importlib.import_module("never_installed")


def test_asking_twice_changes_nothing(package: Path) -> None:
    before = list(sys.meta_path)
    deferred.defer()
    assert sys.meta_path == before


def test_a_cell_has_its_imports_without_what_it_never_uses() -> None:
    """As the server does it; were one of these loaded, every start would take seconds longer."""
    code = """
import gc, sys
import clframe.engine.preload
unused = ("wandb.sdk", "jax", "scipy.stats", "gdown.download", "torch._dynamo.utils")
import torch
weight = torch.nn.Parameter(torch.zeros(3))
optimizer = torch.optim.SGD([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
assert torch._dynamo.utils.get_optimize_ddp_mode() == "ddp_optimizer"
print([name for name in unused if name in sys.modules], gc.isenabled(), gc.get_freeze_count() > 0)
import scipy.signal
assert abs(float(scipy.signal.hamming(5)[2]) - 1) < 1e-9
assert list(scipy.signal.convolve([1, 2], [1, 1])) == [1, 3, 2]
import wandb.sdk
assert torch.compile(lambda x: x + 1, backend="eager")(weight).shape == (3,)
assert type(torch._dynamo.OptimizedModule) is type
assert torch._dynamo.utils.__name__ == "torch._dynamo.utils"
optimizer.step()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[] True True"
