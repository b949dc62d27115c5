"""The list of names: presets are read lightly, and one that is not in order says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from clframe.cli.plugins import listing

PLUGIN = '"""A wrapper."""\nfrom clframe.api import Wrapper\n\n\nclass Around(Wrapper): ...\n'


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of strategy presets, in a project with a wrapper `around`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "around.py").write_text(PLUGIN)
    folder = tmp_path / "conf" / "strategy"
    folder.mkdir(parents=True)
    return folder


def test_a_preset_is_listed_with_its_kind(presets: Path) -> None:
    (presets / "mine.yaml").write_text("plugin: replay\noptions: {capacity: 5}\n")
    (presets / "snug.yaml").write_text("plugin: around\n")
    lines = listing()
    text = "\n".join(lines)  # long lists go over several lines
    strategies = text.partition("strategies")[2].partition("wrappers")[0].split()
    wrappers = text.partition("wrappers")[2].partition("scenarios")[0].split()
    assert "mine" in strategies and {"around", "snug", "refresh"} <= set(wrappers)
    assert not [line for line in lines if line.startswith("broken")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("plugin: [\n", "line 2"),
        ("", "the file is empty"),
        ("plugin: 3\n", "expected the name of a strategy"),
        ("plugin: replay\noptoins: {}\n", "Did you mean 'options'?"),
        ("plugin: replay\noptions: [1]\n", "expected a mapping"),
        ("plugin: reply\n", "Did you mean 'replay'?"),
    ],
)
def test_a_broken_preset_is_listed_with_the_reason(presets: Path, text: str, says: str) -> None:
    (presets / "mine.yaml").write_text(text)
    (line,) = (line for line in listing() if line.startswith("broken"))
    assert "mine: " in line and says in line
