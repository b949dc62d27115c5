"""What a run ran on, read without importing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clframe.tracking.store import git_state


def test_environment_reads_versions_without_importing(tmp_path: Path) -> None:
    code = (
        "import sys, json; from clframe.tracking.store import environment\n"
        "e = environment(); assert 'torch' not in sys.modules, 'imported torch'\n"
        "print(json.dumps(e))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["torch"] and found["packages"]["lightning"]
    assert found["cpu"]["count"] == os.cpu_count() and found["cpu"]["model"]
    assert found["gpus"] == []


def test_git_state_tells_clean_from_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    assert git_state(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = git_state(tmp_path)
    assert clean["dirty"] is False and len(clean["commit"]) == 40
    (tmp_path / "new_strategy.py").write_text("2")
    assert git_state(tmp_path) == clean | {"dirty": True}


def test_git_state_without_a_repository_or_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    nothing = {"commit": None, "dirty": None}
    assert git_state(tmp_path) == nothing
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) == nothing
