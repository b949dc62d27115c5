"""Bad input, one of each kind: one clear error, exit code 2, no traceback, nothing started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clframe.cli import main

RUN = "run strategy=replay scenario=split_digits"
GRID = "name: g\naxes: {strategy: [replay], scenario: [split_digits], seed: [0, 1]}\n"
Refused = Callable[[str], str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """`refused("run ...")`: the error a command prints, after making sure that it did nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLFRAME_PATH", raising=False)
    monkeypatch.setenv("CLFRAME_RUNS", str(tmp_path / "runs"))
    for folder in ("strategies", "scenarios", "conf"):
        (tmp_path / folder).mkdir()

    def command(line: str) -> str:
        assert main(line.split()) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and "Traceback" not in said.err
        assert not list(tmp_path.glob("runs/*/*")), "nothing was started"
        return said.err

    return command


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (f"{RUN} optim.lrr=0.1", ["command line: optim.lrr = 0.1: unknown key", "'optim.lr'?"]),
        (f"{RUN} epochs=many", ["command line: epochs = ", '"many": expected a whole number']),
        (f"{RUN} batch_size=-4", ["command line: batch_size = -4: expected at least 1"]),
        (f"{RUN} options.replay.capacity=-5", ["options.replay.capacity = -5: expected a count"]),
        (f"{RUN} options.replay.capacty=5", ["options.replay.capacty = 5", "'capacity'?"]),
        (f"{RUN} options.replay.capacity=lots", ['capacity = "lots": expected a whole number']),
        (f"{RUN} options.ewc.lam=1", ["options.ewc = ", "not used. This run uses: replay"]),
        (f"{RUN} tune=true", ['eval.split = "test"', "set eval.split=val"]),
        (f"{RUN} accumulate_grad_batches=2", ["gradient accumulation is not offered"]),
        ("run strategy=reply scenario=split_digits", ["no strategy named 'reply'", "'replay'?"]),
        ("run strategy=replay scenario=spit_digits", ["no scenario named", "'split_digits'?"]),
        ("run strategy=replay+ewc scenario=split_digits", ["'replay' is not a wrapper"]),
        ("run strategy=replay", ["scenario: missing; give one, as in scenario=split_digits"]),
        ("run replay", ["expected key=value, as in strategy=replay, not 'replay'"]),
        (f"{RUN} --worker 3", ["unknown word '--worker'. Did you mean '--workers'?"]),
        ("rnu strategy=replay", ["verb = 'rnu': no such choice. Did you mean 'run'?"]),
        ("audit gird", ["no grid named 'gird' in ", "There are no grids there."]),
        ("report gird", ["no grid named 'gird' in ", "There are no grids there."]),
        ("show reply", ["no strategy or scenario named 'reply'. Did you mean 'replay'?"]),
        ("check reply", ["no strategy or scenario named 'reply'. Did you mean 'replay'?"]),
        ("new strategy my-idea", ["'my-idea' cannot name a strategy", "as in my_idea"]),
        ("new strategy class", ["'class' cannot name a strategy"]),
        ("new strategy replay", ["there is a strategy named 'replay' already"]),
        ("report nowhere", ["nowhere"]),
        ("grid g.yaml --workers 0", ["--workers = 0: expected at least 1"]),
        ("ui --port 99", ["no MLflow store at"]),
    ],
)
def test_words(refused: Refused, line: str, parts: list[str]) -> None:
    said = refused(line)
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["./g.yaml: the file is empty"]),
        ("- a\n", ["./g.yaml: expected keys and values"]),
        ("name: [\n", ["./g.yaml, line 2: "]),
        (GRID + "name: h\n", ["./g.yaml, line 3: found duplicate key name"]),
        (GRID + "bse: {epochs: 1}\n", ["./g.yaml: bse = ", "Did you mean 'base'?"]),
        (GRID + "base: {epohcs: 1}\n", ["./g.yaml: base.epohcs = 1", "'epochs'?"]),
        (GRID + "base: {epochs: x}\n", ["./g.yaml: base.epochs = ", "a whole number"]),
        (GRID.replace("[0, 1]", "[0, -1]"), ["./g.yaml: axes.seed = -1: expected at least 0"]),
        (GRID.replace("replay", "reply"), ["./g.yaml: axes.strategy = ", "'replay'?"]),
        (GRID + "options: {replay: {capacity: -1}}\n", ["./g.yaml: options.replay.capacity = -1"]),
        (GRID + "options: {repaly: {x: 1}}\n", ["options.repaly = ", "'replay'?"]),
        (GRID + "exclude: [{seed: 0}, {seed: 1}]\n", ["./g.yaml: no cells are left"]),
    ],
)
def test_grid_files(refused: Refused, text: str, parts: list[str]) -> None:
    Path("g.yaml").write_text(text)
    said = refused("grid g.yaml")
    assert all(part in said for part in parts), said


def test_a_missing_file(refused: Refused) -> None:
    Path("conf/g.yaml").write_text(GRID)
    said = refused("grid conf/gg.yaml")
    assert "conf/gg.yaml: no such file. Did you mean 'conf/g.yaml'?" in said


def test_a_missing_preset_plugin(refused: Refused) -> None:
    Path("conf/strategy").mkdir()
    Path("conf/strategy/mine.yaml").write_text("plugin: reply\n")
    assert "Did you mean 'replay'?" in refused("run strategy=mine scenario=split_digits")


def test_two_plugins_of_one_name(refused: Refused) -> None:
    Path("strategies/replay.py").write_text("class Replay: ...\n")
    said = refused(RUN)
    assert "two strategies are named 'replay'" in said
    assert said.count("replay.py") == 2 and "Rename one" in said


def test_a_folder_that_cannot_hold_runs(refused: Refused) -> None:
    Path("file").write_text("")
    assert "--runs = 'file/below'" in refused(f"{RUN} --runs file/below")


IMPORT = "x = 1\nraise RuntimeError('kaboom')\nclass Boom: ...\n"
BUILD = (
    "from clframe.api import Strategy\nclass Boom(Strategy):\n"
    "    def __init__(self, *, n: int = 1):\n        super().__init__()\n        [][n]\n"
)
DIGITS = "options.split_digits"


@pytest.mark.parametrize(
    ("file", "line", "parts"),
    [
        (
            IMPORT,
            "strategy=boom scenario=blobs",
            ["strategies/boom.py, line 2: RuntimeError: kaboom"],
        ),
        (BUILD, "strategy=boom scenario=blobs", ["boom: IndexError", "boom.py, line 5"]),
        (
            "",
            f"strategy=replay scenario=split_digits {DIGITS}.experiences=3",
            ["experiences=3", "5"],
        ),
        ("", f"strategy=replay scenario=split_digits {DIGITS}.experiences=11", ["experiences=11"]),
        (
            "",
            f"strategy=replay scenario=split_digits {DIGITS}.experiences=-1",
            ["experiences", "-1"],
        ),
        ("", "strategy=replay scenario=blobs options.replay.variant=x", ["variant: 'x'", "concat"]),
        (
            "",
            "strategy=replay scenario=image_folder options.image_folder.path=nowhere",
            ["nowhere"],
        ),
        (
            "",
            "strategy=replay scenario=split_digits eval.split=val",
            ["eval.split=val", "val_share"],
        ),
        (
            "",
            "strategy=replay scenario=split_digits eval.budget=4",
            ["eval.budget: 4 samples", "5 experiences; give at least 5"],
        ),
    ],
    ids=[
        "import",
        "build",
        "indivisible",
        "too-many",
        "negative",
        "option",
        "missing-data",
        "no-validation",
        "budget",
    ],
)
def test_what_only_building_it_shows(
    refused: Refused, file: str, line: str, parts: list[str]
) -> None:
    if file:
        Path("strategies/boom.py").write_text(file)
    said = refused(f"run {line}")
    assert all(part in said for part in parts), said


def test_a_grid_with_one_impossible_cell_starts_none(refused: Refused) -> None:
    text = GRID.replace("seed: [0, 1]", "options.split_digits.experiences: [5, 3]")
    Path("g.yaml").write_text(text)
    said = refused("grid g.yaml")
    assert "experiences=3" in said and said.count("error: ") == 1


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clframe", "run", "strategy=reply", "scenario=split_digits"]
    env = os.environ | {"CLFRAME_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "") and not list(tmp_path.iterdir())
    assert done.stderr.startswith('error: command line: strategy = "reply": no strategy named')


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import contextlib, io, sys, time\nfrom clframe.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "assert not {'torch', 'pydantic', 'omegaconf', 'rich'} & set(sys.modules)\n"
        "print(time.process_time())\n"
        "assert main(['list']) == 0 and main(['run', 'strategy=reply', 'scenario=blobs']) == 2\n"
        "assert not {'torch', 'mlflow', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[0]) < 0.3
