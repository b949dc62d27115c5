"""A user's project with plug-ins that are never imported."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "strategies/plain.py": "class Plain: ...\n",
    "strategies/memory.py": (
        "raise RuntimeError('imported')\n"
        "class Memory:\n"
        "    def __init__(self, *, capacity: int = 500, share: float = 0.5, "
        "draw: int | None = None, mode: Literal['a', 'b'] = 'a', flag: bool = False, "
        "parts: list[int] | None = None, free=3): ...\n"
    ),
    "strategies/outer.py": (
        "class Outer(Wrapper):\n    def __init__(self, base, *, rate: float = 0.1): ...\n"
    ),
    "scenarios/toy.py": (
        "def toy(*, experiences: int = 5, seed: int = 0, root: str | None = None): ...\n"
    ),
    "scenarios/needy.py": "def needy(*, root: str, kind: str): ...\n",
    "conf/strategy/big_memory.yaml": "plugin: memory\noptions: {capacity: 2000, share: 0.25}\n",
    "conf/scenario/toy_ten.yaml": "plugin: toy\noptions: {experiences: 10}\n",
    "conf/run.yaml": "track: {experiment: mine}\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a few plug-ins and presets."""
    monkeypatch.delenv("CLFRAME_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path
