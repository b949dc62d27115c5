"""Plug-ins are found by file name, described without importing them, and refused with reasons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clframe import registry
from clframe.core.strategy import Strategy
from clframe.errors import PluginError

STRATEGY = '''"""Alpha: the first of its kind."""
from clframe.api import Strategy

class AlphaBeta(Strategy):
    """Does nothing new."""
    def __init__(self, *, size: int = 3, rate: float, mode: str = "a" + "b") -> None:
        super().__init__()
'''
WRAPPER = """from clframe.api import Wrapper
class Outer(Wrapper):
    def __init__(self, base, *, x=1): ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project of a user, which is also the current folder."""
    monkeypatch.delenv("CLFRAME_PATH", raising=False)
    folder = tmp_path / "project"
    for kind in ("strategies", "scenarios"):
        (folder / kind).mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_file_is_described_without_importing_it(project: Path) -> None:
    path = project / "strategies" / "alpha_beta.py"
    path.write_text(STRATEGY + "\nraise RuntimeError('imported')\n")
    plugin = registry.find("strategy", "alpha_beta")
    assert (plugin.kind, plugin.path, plugin.is_wrapper) == ("strategy", path, False)
    assert [str(o) for o in plugin.options] == [
        "size: int = 3",
        "rate: float",
        "mode: str = 'a' + 'b'",
    ]
    assert plugin.doc == "Alpha: the first of its kind."
    assert [o.literal() for o in plugin.options] == [3, ..., ...]


def test_file_and_class_names_are_compared_without_case_and_underscores(project: Path) -> None:
    (project / "strategies" / "er_xy.py").write_text("class ERxY: ...\n")
    assert registry.find("strategy", "er_xy").load().__name__ == "ERxY"


def test_wrappers_are_known_by_their_bases(project: Path) -> None:
    (project / "strategies" / "outer.py").write_text(WRAPPER)
    more = WRAPPER + "class Inner(Outer): ...\n"
    (project / "strategies" / "inner.py").write_text(more)
    (project / "strategies" / "dotted.py").write_text("import m\nclass Dotted(m.Wrapper): ...\n")
    found = registry.plugins("strategy")
    assert all(found[name].is_wrapper for name in ("outer", "inner", "dotted"))
    assert [str(o) for o in found["inner"].options] == ["x = 1"]


def test_a_scenario_is_a_function(project: Path) -> None:
    (project / "scenarios" / "toy.py").write_text("def toy(*, n: int = 2):\n    return n + 1\n")
    plugin = registry.find("scenario", "toy")
    assert plugin.load()(n=2) == 3
    assert plugin.load().__module__ == "clframe.scenarios.toy"


def test_a_plugin_follows_the_current_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "scenarios"
    other.mkdir(parents=True)
    (project / "scenarios" / "toy.py").write_text("def toy(): return 'here'\n")
    (other / "toy.py").write_text("def toy(): return 'there'\n")
    assert registry.find("scenario", "toy").load()() == "here"
    monkeypatch.chdir(other.parent)
    assert registry.find("scenario", "toy").load()() == "there"


@pytest.mark.parametrize("split", [True, False], ids=["sub-folders", "files directly"])
def test_clframe_path(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    lent = tmp_path / "lent"
    (lent / "strategies").mkdir(parents=True)
    (lent / "scenarios").mkdir()
    at = (lent / "strategies", lent / "scenarios") if split else (tmp_path / "flat",) * 2
    at[0].mkdir(exist_ok=True)
    (at[0] / "outer.py").write_text(WRAPPER)
    (at[1] / "toy.py").write_text("def toy(): return 1\n")
    (at[0] / "helper.py").write_text("X = 1\n") if not split else None
    monkeypatch.setenv("CLFRAME_PATH", str(lent if split else at[0]))
    assert registry.find("strategy", "outer").is_wrapper
    assert registry.find("scenario", "toy").load()() == 1
    assert not {"toy", "helper"} & set(registry.plugins("strategy"))
    assert not {"outer", "helper"} & set(registry.plugins("scenario"))


def test_a_package_may_offer_plugins(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "offering").mkdir(parents=True)
    (site / "offering" / "__init__.py").write_text("raise RuntimeError('parent imported')\n")
    (site / "offering" / "methods.py").write_text(STRATEGY)
    info = site / "offering-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    entry = "[clframe.strategies]\noffered = offering.methods:AlphaBeta\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(site)
    plugin = registry.find("strategy", "offered")
    assert plugin.origin == "package offering"
    assert plugin.path == site / "offering" / "methods.py"
    assert [o.name for o in plugin.options] == ["size", "rate", "mode"]
    with pytest.raises(PluginError, match="parent imported"):
        plugin.load()


def test_a_dotted_path_below_a_folder_without_init(project: Path) -> None:
    folder = project / "outer" / "inner"
    folder.mkdir(parents=True)
    (project / "outer" / "__init__.py").touch()
    (folder / "deep.py").write_text("class Deep:\n    pass\n")
    assert registry.find("strategy", "outer.inner.deep:Deep").path == folder / "deep.py"
    with pytest.raises(PluginError, match=r"no module 'outer\.inner\.flat'"):
        registry.find("strategy", "outer.inner.flat:Deep")


def test_a_dotted_path(project: Path) -> None:
    (project / "mymod").mkdir()
    (project / "mymod" / "deep.py").write_text(
        "import fractions\n\nclass Base:\n    def __init__(self, *, a: int = 1): ...\n"
        "class Mine(Base): ...\nOther = fractions.Fraction\n"
    )
    plugin = registry.find("strategy", "mymod.deep:Mine")
    assert (plugin.name, [o.name for o in plugin.options]) == ("Mine", ["a"])
    assert plugin.load().__name__ == "Mine"
    assert registry.find("strategy", "mymod.deep:Other").load().__name__ == "Fraction"
    with pytest.raises(PluginError, match=r"mymod\.deep has no 'Mint'\. Did you mean 'Mine'\?"):
        registry.find("strategy", "mymod.deep:Mint").load()
    with pytest.raises(PluginError, match=r"no module 'mymod\.deeper'"):
        registry.find("strategy", "mymod.deeper:Mine")


def test_inherited_options_of_another_file_are_found_by_importing(project: Path) -> None:
    (project / "basemod.py").write_text("class Far:\n    def __init__(self, *, z: int = 1): ...\n")
    (project / "strategies" / "near.py").write_text(
        "import sys\nsys.path.insert(0, '.')\nfrom basemod import Far\nclass Near(Far): ...\n"
    )
    plugin = registry.find("strategy", "near")
    assert plugin.declared is not None and not plugin.declared.complete
    assert [str(o) for o in plugin.options] == ["z: int = 1"]


def test_two_files_of_one_name_are_an_error(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent = tmp_path / "lent" / "scenarios"
    lent.mkdir(parents=True)
    monkeypatch.setenv("CLFRAME_PATH", str(lent.parent))
    mine = project / "scenarios" / "toy.py"
    mine.write_text("def toy(): return 1\n")
    (lent / "toy.py").symlink_to(mine)
    assert registry.find("scenario", "toy").path == mine  # one file reached by two paths
    (lent / "toy.py").unlink()
    (lent / "toy.py").write_text(mine.read_text())
    assert registry.find("scenario", "toy").path == mine  # a copy is no conflict
    (lent / "toy.py").write_text("def toy(): return 2\n")
    with pytest.raises(PluginError) as error:
        registry.find("scenario", "toy")
    assert str(mine) in str(error.value) and str(lent / "toy.py") in str(error.value)


def test_a_preset_and_a_plugin_of_one_name_are_an_error(project: Path) -> None:
    (project / "scenarios" / "toy.py").write_text("def toy(): return 1\n")
    (project / "conf" / "scenario").mkdir(parents=True)
    (project / "conf" / "scenario" / "toy.yaml").write_text("plugin: toy\n")
    with pytest.raises(PluginError, match=r"both a scenario and a preset:\n.*toy\.py\n.*toy\.yaml"):
        registry.find("scenario", "toy")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x = 1\nraise KeyError('why')\nclass Boom: ...\n", 2, "KeyError: 'why'"),
        ("class Boom: ...\nimport json\njson.loads('{')\n", 3, "JSONDecodeError"),
        ("import nowhere_to_be_found\nclass Boom: ...\n", 1, "ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\nclass Boom: ...\n", 2, "SystemExit: 3"),
    ],
)
def test_a_failing_import_names_the_place(project: Path, text: str, line: int, said: str) -> None:
    path = project / "strategies" / "boom.py"
    path.write_text(text)
    with pytest.raises(PluginError) as error:
        registry.find("strategy", "boom").load()
    assert f"{path}, line {line}: " in str(error.value) and said in str(error.value)
    assert error.value.__cause__ is None and "clframe.strategies.boom" not in sys.modules


def test_a_file_that_is_no_python(project: Path) -> None:
    path = project / "strategies" / "boom.py"
    path.write_text("x = 1\ndef (\n")
    with pytest.raises(PluginError, match=r"boom\.py, line 2: SyntaxError"):
        registry.find("strategy", "boom").load()


def test_a_file_without_its_class(project: Path) -> None:
    (project / "strategies" / "my_idea.py").write_text("class Other: ...\n")
    with pytest.raises(PluginError, match=r"my_idea\.py defines no class .*\n.*'MyIdea'"):
        _ = registry.find("strategy", "my_idea").options


def test_an_unknown_name_says_what_there_is(project: Path) -> None:
    (project / "strategies" / "alpha_beta.py").write_text(STRATEGY)
    (project / "conf" / "strategy").mkdir(parents=True)
    (project / "conf" / "strategy" / "gamma_ray.yaml").write_text("plugin: alpha_beta\n")
    with pytest.raises(PluginError) as error:
        registry.find("strategy", "gama_ray")
    said = str(error.value)
    assert "no strategy named 'gama_ray'. Did you mean 'gamma_ray'?" in said
    assert "Known: " in said and "alpha_beta" in said
    assert "Looked in: ./strategies" in said and "<clframe>/strategies" in said


SLIPS = {
    "after_bach": "nothing asks for Toy.after_bach. Did you mean 'after_batch'?",
    "forget_los": "nothing asks for Toy.forget_los. Did you mean 'forget_loss'?",
    "on_forget": "Toy only forgets, and has no forget or forget_loss.*mean 'forget' by 'on_forget'",
    "helper": "Toy only forgets, and has no forget or forget_loss to do it by.$",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_what_nothing_would_call_is_refused(project: Path, slip: str) -> None:
    source = "from clframe.api import Strategy, Wrapper\n\n\nclass Toy(Wrapper):\n"
    source += f"    only_forgets = True\n\n    def {slip}(self, *given):\n        return None\n"
    (project / "strategies" / "toy.py").write_text(source)
    plugin = registry.find("strategy", "toy")
    with pytest.raises(PluginError, match=SLIPS[slip]):
        plugin.check_call({})
        plugin.load()(Strategy())


def test_a_wrapper_by_steps_has_a_loss_for_them(project: Path) -> None:
    source = "from clframe.api import ForgetSteps\n\n\nclass Toy(ForgetSteps):\n    "
    source += "def forget(self, exp):\n        return True\n"
    (project / "strategies" / "toy.py").write_text(source)
    with pytest.raises(PluginError, match="Toy only forgets, and has no forget_loss"):
        registry.find("strategy", "toy").load()(Strategy(), 3, 0.1)


def test_a_call_is_checked_against_the_live_signature(project: Path) -> None:
    (project / "scenarios" / "toy.py").write_text("def toy(n, *, seed=0): return 1\n")
    plugin = registry.find("scenario", "toy")
    with pytest.raises(PluginError, match=r"toy takes 'n'.*\n.*keyword-only"):
        plugin.check_call({})
    with pytest.raises(PluginError, match=r"no option 'sed'\. Did you mean 'seed'"):
        plugin.check_call({"sed": 1})


def test_chains_are_split() -> None:
    assert registry.split_chain("refresh+power_law+replay") == ["refresh", "power_law", "replay"]
    with pytest.raises(PluginError, match="empty name"):
        registry.split_chain("refresh++replay")


def test_plugin_packages_import_by_file_name(project: Path) -> None:
    code = "import clframe.strategies.alpha_beta as m; print(m.AlphaBeta.__name__)"
    (project / "strategies" / "alpha_beta.py").write_text("class AlphaBeta: ...\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "AlphaBeta\n"


def test_listing_is_quick_and_never_imports_torch() -> None:
    code = (
        "import sys, time\nfrom clframe import registry\n"
        "best = 9.0\nfor _ in range(3):\n"
        "    registry.declared._read.cache_clear()\n"
        "    t = time.process_time()\n"
        "    for kind in ('strategy', 'scenario'):\n"
        "        for p in registry.plugins(kind).values(): p.doc, p.is_wrapper, p.options\n"
        "    best = min(best, time.process_time() - t)\n"
        "assert 'torch' not in sys.modules\nprint(best)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1


def test_shipped_plugins_are_well_formed() -> None:
    for kind in ("strategy", "scenario"):
        for plugin in registry.plugins(kind).values():
            assert plugin.doc.endswith("."), f"{plugin.path} opens with one sentence"
            assert plugin.facts.about, f"{plugin.path}: the class or function has a docstring"


def test_a_wheel_carries_its_own_plugins(tmp_path: Path) -> None:
    """The build copies the folders into the package; nothing beside it is searched then."""
    root, site = Path(__file__).parents[2], tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "clframe", site / "clframe", ignore=ignore)
    for folder in ("strategies", "scenarios", "conf"):
        target = site / "clframe" / folder
        shutil.copytree(root / folder, target, ignore=ignore, dirs_exist_ok=True)
    (site / "strategies").mkdir()  # someone else's distribution
    (site / "strategies" / "foreign.py").write_text("class Foreign: ...\n")
    (tmp_path / "empty").mkdir()
    code = (
        "import clframe; from clframe import registry as r\n"
        "p = r.find('strategy', 'replay'); print(p.path)\n"
        "print(r.preset_files('scenario')['split_digits'])\n"
        "print('foreign' in r.plugins('strategy'), r.shown(p.path))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    own = site / "clframe"
    assert done.stdout.splitlines() == [
        str(own / "strategies" / "replay.py"),
        str(own / "conf" / "scenario" / "split_digits.yaml"),
        "False <clframe>/strategies/replay.py",
    ]
