"""The public contract over small real runs: exit codes, last lines, folders, grids, plug-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from clframe.cli import main
from clframe.registry import plugins

SMALL = "scenario=split_digits options.split_digits.train_limit=12 batch_size=8 eval.subset=20"
UNTRACKED = f"{SMALL} track.enabled=false"
Command = Callable[[str], tuple[int, list[str]]]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`command("run ...")` in an empty project: its exit code and the lines on stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLFRAME_RUNS", raising=False)
    monkeypatch.delenv("CLFRAME_PATH", raising=False)

    def do(line: str) -> tuple[int, list[str]]:
        code = main(line.split())
        return code, capsys.readouterr().out.splitlines()

    return do


def test_a_run_and_its_folder(command: Command) -> None:
    code, lines = command(f"run strategy=replay seed=0 {UNTRACKED}")
    folder = Path(lines[-1])
    assert code == 0 and folder.parent == Path("runs/solo")
    assert folder.name.startswith("split_digits-replay-s0-")
    assert yaml.safe_load((folder / "config.yaml").read_text())["strategy"] == "replay"
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "done" and record["iteration"] == 15
    assert set(record["metrics"]) >= {"acc_final", "min_acc_final"}
    columns = [
        "iteration",
        "train_experience",
        "eval_experience",
        "readout",
        "accuracy",
        "correct",
        "total",
    ]
    for name in ("trace.parquet", "boundary.parquet"):
        assert pq.read_schema(folder / name).names == columns
    assert "acc_final" in json.loads((folder / "metrics.json").read_text())
    code, lines = command(f"run strategy=replay {UNTRACKED}")
    assert code == 0 and "is done already" in lines[0] and Path(lines[-1]) == folder


def test_runs_go_where_they_are_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLFRAME_RUNS", str(tmp_path / "elsewhere"))
    _, lines = command(f"run strategy=fine_tune {UNTRACKED}")
    assert Path(lines[-1]).parent == tmp_path / "elsewhere" / "solo"
    _, lines = command(f"run strategy=fine_tune --runs here {UNTRACKED}")
    assert Path(lines[-1]).parent == Path("here/solo")


def test_a_grid_isolates_the_cell_whose_loss_is_not_finite(command: Command) -> None:
    base = {"batch_size": 8, "eval": {"subset": 20}, "track": {"enabled": False}}
    options = {"split_digits": {"train_limit": 12}}
    axes = {
        "strategy": ["fine_tune", "joint"],
        "scenario": "split_digits",
        "optim.lr": [0.05, 1e30],
    }
    grid = {"base": base, "axes": axes, "exclude": [{"strategy": "joint", "optim.lr": 1e30}]}
    Path("g.yaml").write_text(yaml.safe_dump({"name": "g", **grid, "options": options}))
    code, lines = command("grid g.yaml")
    assert code == 1 and lines[-1] == "runs/g"
    assert "3 cells: 0 done, 3 to run" in lines and "3 cells: 2 done, 0 to run, 1 to retry" in (
        "\n".join(lines)
    )
    assert any("nan" in line or "not finite" in line for line in lines)
    records = {p: json.loads(p.read_text()) for p in Path("runs/g").glob("*/record.json")}
    assert sorted(r["status"] for r in records.values()) == ["done", "done", "failed"]
    (mine,) = [p.parent for p, r in records.items() if r["status"] == "done" and not r["reference"]]
    assert json.loads((mine / "metrics.json").read_text())["intransigence"] is not None
    code, lines = command("grid g.yaml optim.lr=0.05")
    assert code == 0 and "2 cells: 2 done, 0 to run" in lines


def test_what_new_writes_keeps_its_promises(command: Command) -> None:
    for kind, name in (("strategy", "my_idea"), ("scenario", "my_data")):
        code, lines = command(f"new {kind} {name}")
        assert code == 0 and lines[-1] == f"check it with: clframe check {name}"
        assert name in plugins(kind)  # type: ignore[arg-type]
    code, lines = command("run strategy=my_idea scenario=my_data track.enabled=false")
    assert code == 0
    code, lines = command("check my_idea")
    assert code == 0, lines
    promises = ["✓ trains", "✓ is deterministic", "✓ resumes", "✓ spreads", "✓ forgets"]
    promises.append("✓ resumes")
    assert [line[: len(p)] for line, p in zip(lines, promises, strict=True)] == promises


def test_check_says_which_promise_is_broken(command: Command) -> None:
    command("new strategy my_idea")
    path = Path("strategies/my_idea.py")
    noise = "return {k: v * (1 + time.time_ns() % 97 / 1000) for k, v in terms.items()}"
    text = path.read_text().replace("return terms", noise)
    path.write_text(text.replace("from torch import", "import time\n\nfrom torch import"))
    code, lines = command("check my_idea epochs=1 batch_size=16")
    assert code == 1
    assert lines[0].startswith("✓ trains") and lines[1].startswith("✗ is deterministic")
    assert "differs" in lines[1] and not any("resumes" in line for line in lines)


FORGETFUL = '''"""It draws another head at each request, a wider one each time."""
from typing import ClassVar

import torch

from clframe.api import Experience, Strategy, Wrapper


class Forgetful(Wrapper):
    only_forgets: ClassVar[bool] = True

    def __init__(self, base: Strategy) -> None:
        super().__init__(base)
        self.count = 0

    def forget(self, exp: Experience) -> bool:
        self.count += 1
        with torch.no_grad():
            self.net.head.weight.normal_(std=float(self.count))
        return True
'''


def test_check_kills_behind_a_request_and_sees_a_wrapper_that_does_nothing(
    command: Command,
) -> None:
    Path("strategies").mkdir(exist_ok=True)
    path = Path("strategies/forgetful.py")
    path.write_text(FORGETFUL)
    code, lines = command("check forgetful")
    assert code == 1 and [line[0] for line in lines[:6]] == [*"✓✓✓✓✓✗"], lines
    assert "behind a request" in lines[5] and "get_extra_state" in lines[5]
    path.write_text(FORGETFUL.replace("self.net.head.weight.normal_", "torch.empty(3).normal_"))
    code, lines = command("check forgetful+replay epochs=1")
    assert code == 1 and lines[4].startswith("✗ forgets"), lines
    assert lines[4].endswith("a request changes nothing: all is as with replay alone")


def test_check_of_what_learns_in_an_instant(command: Command) -> None:
    code, lines = command("check fetril")
    assert code == 0 and len(lines) == 6 and all(line.startswith("✓") for line in lines), lines


def test_a_shipped_grid_by_its_name(command: Command) -> None:
    code, lines = command("grid quickstart seed=0 strategy=[replay] --dry-run")
    assert code == 0 and "2 cells: 0 done, 2 to run" in lines and lines[-1] == "runs/quickstart"


def test_list_and_show(command: Command) -> None:
    code, lines = command("list")
    assert code == 0 and lines[0].startswith("strategies  ") and " replay" in " ".join(lines)
    assert any("split_digits" in line for line in lines)
    code, lines = command("show replay")
    assert code == 0 and any("capacity: int = 500" in line for line in lines)
    assert any(line.startswith("source") and "replay.py:" in line for line in lines)
    _, lines = command("show split_digits")
    assert lines[0] == "split_digits: a preset of the scenario split"
