"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "clframe").rglob("*.py"))
PLUGINS = sorted([*(ROOT / "strategies").glob("*.py"), *(ROOT / "scenarios").glob("*.py")])
REFERENCES = {"joint", "independent"}  # a role that the core knows, by its name
COMMON = {"split", "replay"}  # words that also name other things


@pytest.mark.parametrize("path", [*PACKAGE, *PLUGINS], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_and_says_why_it_exists(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    doc = ast.get_docstring(ast.parse(text))
    assert doc and doc.splitlines()[0].endswith((".", "`", ":")), "one sentence to open with"


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}"
        for path in [*PACKAGE, *PLUGINS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 - _signature(node) > 40
    ]
    assert not long, long


def _signature(node: ast.FunctionDef) -> int:
    return node.body[0].lineno - node.lineno


def test_the_core_never_asks_which_method_it_is() -> None:
    names = {p.stem for p in PLUGINS} - REFERENCES - COMMON
    for path in PACKAGE:
        tree = ast.parse(path.read_text())
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        compared = {
            c.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Compare)
            for c in ast.walk(n)
            if isinstance(c, ast.Constant) and isinstance(c.value, str)
        }
        assert not compared & names, path
        if "core" in path.parts or "engine" in path.parts or "evaluation" in path.parts:
            assert not {w for w in words if isinstance(w, str)} & names, path


def test_plug_ins_import_the_api_and_nothing_else_of_ours() -> None:
    for path in PLUGINS:
        for line in re.findall(r"^\s*(?:from|import) (clframe[\w.]*)", path.read_text(), re.M):
            assert line == "clframe.api", path


def test_nothing_of_lightnings_logging_is_on_the_steps_path() -> None:
    for path in PACKAGE:
        text = path.read_text()
        assert "MLFlowLogger" not in text, path
        assert not re.search(r"self\.log\(", text), path
        assert "val_dataloaders" not in text and "global_step" not in text, path


HEAVY = {"torch", "mlflow", "lightning", "avalanche", "ray", "numpy", "pyarrow"}


@pytest.mark.parametrize(
    ("line", "heavy"),
    [
        ("cli.main(['list'])", HEAVY | {"pydantic", "omegaconf"}),
        ("cli.main(['run', 'strategy=reply', 'scenario=split_digits'])", HEAVY),
        ("import clframe.grid.runner", HEAVY),  # before the server starts, which imports torch
    ],
)
def test_nobody_waits_for_imports_that_are_not_needed(line: str, heavy: set[str]) -> None:
    code = f"import sys; from clframe import cli; {line}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
    assert done.stdout.split(b"\n")[-2] == b"[]"
