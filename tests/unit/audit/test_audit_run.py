"""The audit of a real grid, small enough to train here: who is judged, by what, what is told."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clframe.audit import run as audit_run
from clframe.audit.bench import Bench, Case
from clframe.audit.run import audit
from clframe.config.companions import Audit
from clframe.config.grid import load_grid
from clframe.config.identity import run_id
from clframe.errors import ConfigError
from clframe.grid import runner
from clframe.grid.runner import run_grid
from clframe.report import Report, build
from clframe.report.load import load_grid as read
from clframe.tracking.store import RunStore

GRID = """
name: gone
axes: {strategy: [replay, discard+replay], scenario: [split_digits], seed: [0, 1, 2]}
base:
  epochs: 3
  batch_size: 16
  requests: L0 L1 U0 L2
  net: {args: {hidden: 16}}
  optim: {lr: 0.2}
  eval: {subset: 30}
  track: {enabled: false}
options:
  split_digits: {base: 4, increment: 3, train_limit: 16, seed: 0}
audit: {samples: 60, relearn_steps: 3, recovery: [1], attack_samples: 30}
"""
SMALL = Audit(samples=60, relearn_steps=3, recovery=[1], attack_samples=30)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Report]:
    """The grid's folder with its first audit, what running it said, and its report."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "grid.yaml").write_text(GRID)
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert run_grid(load_grid(folder / "grid.yaml"), folder / "runs", console=console) == 0
    grid = folder / "runs" / "gone"
    assert audit(grid) == 0
    return grid, said.getvalue(), build(grid)


@pytest.fixture
def grid(judged: tuple[Path, str, Report], tmp_path: Path) -> Path:
    """A copy of the grid's folder, to change."""
    return Path(shutil.copytree(judged[0], tmp_path / "gone"))


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells judged from now on; they are told nothing."""
    cells: list[str] = []

    def spy(case: Case, bench: Bench) -> dict[str, Any]:
        assert bench.audit == SMALL
        cells.append(case.folder.name)
        return {}

    monkeypatch.setattr(audit_run, "judge", spy)
    return cells


def cells_of(grid: Path) -> tuple[list[Path], list[Path]]:
    """The folders of the grid's own cells, and of their companions."""
    spec = load_grid(grid / "grid.yaml")
    own, beside = ([grid / run_id(c) for c in found] for found in (spec.cells(), spec.companions()))
    return own, beside


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


# -- a grid and its companions ---------------------------------------------------------------


def test_companions_are_run_with_the_grid(judged: tuple[Path, str, Report]) -> None:
    grid, said, _ = judged
    own, beside = cells_of(grid)
    assert len(own) == len(beside) == 6, "both methods have the same: retrained and never asked"
    assert {p.parent for p in grid.glob("*/config.yaml")} == {*own, *beside}
    assert {RunStore(p).state() for p in (*own, *beside)} == {"done"}
    assert "6 more runs for the audit: retrained, and never asked" in said
    assert "12 cells: 12 done" in said
    assert {p.parent for p in grid.glob("*/before-2.ckpt")} == set(own)


def test_every_cell_that_was_told_to_forget_is_judged(judged: tuple[Path, str, Report]) -> None:
    own, beside = cells_of(judged[0])
    assert all((p / "audit.json").is_file() for p in own)
    assert not any((p / "audit.json").exists() for p in beside)
    for path in own:
        found = json.loads((path / "audit.json").read_text())
        assert found.keys() == {
            *("by_task", "peers", "gain", "agreement", "attacks", "requests"),
            *("confidence", "cost", "lira", "asked"),
        }
        assert [(r["position"], r["name"]) for r in found["requests"]] == [(2, "U0")]
        assert len(found["requests"][0]["curves"]["unlearned"]) == 4
        assert found["agreement"]["forget_test"]["js"]["floor"] > 0, "of three seeds"
        assert found["lira"]["detail"]["num_pairs"] == 3


def test_a_second_call_judges_nothing(
    grid: Path, again: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_text() for p in grid.glob("*/audit.json")}
    assert audit(grid) == 0
    assert again == [] and "audit: 6 runs, 0 to judge" in capsys.readouterr().out
    assert {p: p.read_text() for p in grid.glob("*/audit.json")} == before


def folder_of(grid: Path, strategy: str, seed: int, order: str) -> Path:
    """The folder of a run by what it was told."""
    for path in grid.glob(f"split_digits-{strategy}-s{seed}-*"):
        stream = RunStore(path).read_record().data["experiences"]
        told = [f"{'L' if e['kind'] == 'learn' else 'U'}{e['origin']}" for e in stream]
        if told == order.split():
            return path
    raise LookupError(order)


@pytest.mark.parametrize(
    ("strategy", "order", "due"),
    [
        ("discard+replay", "L0 L1 U0 L2", {("discard+replay", 1)}),
        ("replay", "L0 L1 L2", {("replay", 1), ("discard+replay", 1)}),  # never asked
        ("replay", "L1 L2", {(m, s) for m in ("replay", "discard+replay") for s in range(3)}),
    ],
    ids=["itself", "unasked", "retrained"],
)
def test_a_model_that_has_changed_makes_due_who_is_judged_by_it(
    grid: Path, again: list[str], strategy: str, order: str, due: set[tuple[str, int]]
) -> None:
    change(folder_of(grid, strategy, 1, order) / "last.ckpt")
    assert audit(grid) == 0
    assert set(again) == {folder_of(grid, m, s, "L0 L1 U0 L2").name for m, s in due}
    assert len(again) == len(due)


def test_a_cell_whose_companion_is_missing_is_reported(
    grid: Path, again: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = folder_of(grid, "replay", 2, "L0 L1 L2")
    own, _ = cells_of(grid)
    shutil.rmtree(lost)
    for path in own:
        change(path / "last.ckpt")
    assert audit(grid) == 1
    said = capsys.readouterr().out
    for strategy in ("replay", "discard+replay"):
        name = folder_of(grid, strategy, 2, "L0 L1 U0 L2").name
        assert f"not judged: {name}: {lost.name} not done" in said
        assert name not in again
    assert len(again) == 4, "the others are judged all the same"


def test_a_companion_that_failed_is_not_done(
    grid: Path, again: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = folder_of(grid, "replay", 0, "L1 L2")
    RunStore(lost).update_record(status="failed")
    assert audit(grid) == 1
    assert capsys.readouterr().out.count(f"{lost.name} not done") == 2


def test_what_went_wrong_is_told_and_the_rest_goes_on(
    grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = cells_of(grid)
    for path in own[:2]:
        (path / "audit.json").unlink()

    def fails(case: Case, bench: Bench) -> dict[str, Any]:
        if case.folder == own[0]:
            raise ValueError("no such number")
        return {}

    monkeypatch.setattr(audit_run, "judge", fails)
    assert audit(grid) == 1
    said = capsys.readouterr().out
    assert f"failed: ValueError: no such number  {own[0].name}" in said
    assert not (own[0] / "audit.json").exists() and (own[1] / "audit.json").exists()


def test_a_cell_that_could_not_be_judged_again_stays_due(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was told before of another model is gone, too."""
    cell = folder_of(grid, "replay", 1, "L0 L1 U0 L2")
    change(folder_of(grid, "replay", 1, "L0 L1 L2") / "last.ckpt")
    (cell / "before-2.ckpt").unlink()
    assert audit(grid) == 1
    assert not (cell / "audit.json").exists()
    assert audit(grid) == 1
    assert "audit: 6 runs, 1 to judge" in capsys.readouterr().out


def test_half_a_file_is_judged_again(grid: Path, again: list[str]) -> None:
    cell = folder_of(grid, "replay", 1, "L0 L1 U0 L2")
    (cell / "audit.json").write_text("{")
    assert [f["n"] for f in build(grid).tables["unlearning"] if f["figure"] == "js"] == [2, 3]
    assert audit(grid) == 0 and again == [cell.name]


def test_a_broken_record_is_one_that_is_not_done(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = folder_of(grid, "replay", 0, "L0 L1 L2")
    (lost / "record.json").write_text("{}")
    assert audit(grid) == 1
    assert capsys.readouterr().out.count(f"{lost.name} not done") == 2


def test_other_questions_make_everything_due(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (grid / "grid.yaml").read_text()
    (grid / "grid.yaml").write_text(text.replace("samples: 60", "samples: 50"))
    asked: list[Audit] = []

    def spy(case: Case, bench: Bench) -> dict[str, Any]:
        asked.append(bench.audit)
        return {}

    monkeypatch.setattr(audit_run, "judge", spy)
    assert audit(grid) == 0
    assert asked == [SMALL.model_copy(update={"samples": 50})] * 6
    assert audit(grid) == 0 and len(asked) == 6


def test_workers_find_the_same(grid: Path) -> None:
    before = {p: json.loads(p.read_text()) for p in grid.glob("*/audit.json")}
    for path in before:
        path.unlink()
    assert audit(grid, workers=2) == 0
    for path, found in before.items():
        again = json.loads(path.read_text())
        assert {k: v for k, v in again.items() if k != "cost"} == {
            k: v for k, v in found.items() if k != "cost"
        }


KILLED = """
import os, signal, sys, time
from pathlib import Path
from clframe.audit import run as audit_run
from clframe.audit.run import audit

def judge(case, bench):
    if "discard+replay-s0" in case.folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return {{}}

def wait(case, bench):
    (Path({folder!r}) / f"pid-{{os.getpid()}}").touch()
    time.sleep(600)

audit_run.judge = wait if "wait" in sys.argv else judge
if __name__ == "__main__":
    raise SystemExit(audit(Path({folder!r}), workers=2))
"""


def test_a_worker_that_is_killed_costs_at_most_its_own(grid: Path, tmp_path: Path) -> None:
    """It takes the other one with it, whose runs are judged all the same."""
    for path in (*grid.glob("*-s0-*/audit.json"), *grid.glob("*-s1-*/audit.json")):
        path.unlink()
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(folder=str(grid)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    lost = [line for line in done.stdout.splitlines() if "was killed twice" in line]
    assert len(lost) == 2 and all("-s0-" in line for line in lost)
    assert len([*grid.glob("*/audit.json")]) == 4


def test_workers_end_with_whoever_started_them(grid: Path, tmp_path: Path) -> None:
    for path in grid.glob("*/audit.json"):
        path.unlink()
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(folder=str(grid)))
    started = subprocess.Popen([sys.executable, str(script), "wait"], stdout=subprocess.DEVNULL)
    workers = until(lambda: [int(p.name[4:]) for p in grid.glob("pid-*")], 2)
    started.kill()
    started.wait()
    assert until(lambda: [w for w in workers if not Path(f"/proc/{w}").exists()], 2)


def until(found: Callable[[], list[int]], count: int) -> list[int]:
    """What `found` gives once that is `count` long."""
    deadline = time.monotonic() + 120
    while len(found()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found()


def test_mlflow_is_sent_what_it_does_not_have(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Path] = []
    monkeypatch.setattr(runner, "_deliver", lambda cells, *_: sent.extend(c.folder for c in cells))
    own, _ = cells_of(grid)
    shown = own[:4]
    for folder in own:
        RunStore(folder).audit_path.unlink()
    for folder in shown:
        RunStore(folder).upload_path.write_text("{}")
    runner.show_audit(grid)
    assert sent == [], "nothing was found yet"
    assert audit(grid) == 0
    runner.show_audit(grid)
    assert sorted(sent) == sorted(shown), "the others are shown nowhere"
    for folder in shown:
        RunStore(folder).pending_path.unlink()  # as when MLflow has taken it
    sent.clear()
    assert audit(grid) == 0
    runner.show_audit(grid)
    assert sent == [], "nothing was judged anew"


def test_a_grid_that_was_run_without_an_audit_says_what_to_do(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = folder_of(grid, "replay", 0, "L0 L1 U0 L2")
    (cell / "before-2.ckpt").unlink()
    (cell / "audit.json").unlink()
    assert audit(grid) == 1
    said = capsys.readouterr().out
    assert "before-2.ckpt is missing: the run was made without copies=true" in said
    assert "Delete its folder and run the grid again" in said


def test_a_grid_that_does_not_ask_for_it_is_refused(grid: Path) -> None:
    text = (grid / "grid.yaml").read_text()
    (grid / "grid.yaml").write_text(text[: text.index("audit:")])
    with pytest.raises(ConfigError, match="audit is not asked for; add `audit: true`"):
        audit(grid)


def test_attacks_through_others_need_no_judge(grid: Path, again: list[str]) -> None:
    for path in grid.glob("*/audit.json"):
        found = json.loads(path.read_text())
        del found["lira"]
        path.write_text(json.dumps(found))
    assert audit(grid) == 0 and again == []
    assert all("lira" in json.loads(p.read_text()) for p in grid.glob("*/audit.json"))


def test_one_seed_fewer_has_no_attack_through_others(grid: Path) -> None:
    text = (grid / "grid.yaml").read_text()
    lines = [line for line in text.splitlines(keepends=True) if line.strip() != "- 2"]
    (grid / "grid.yaml").write_text("".join(lines))
    assert audit(grid) == 0
    for seed in (0, 1):
        path = folder_of(grid, "replay", seed, "L0 L1 U0 L2") / "audit.json"
        found = json.loads(path.read_text())["lira"]
        assert found["score"] is None and found["note"].startswith("needs 17 shadow pairs, or 3")


# -- the report ------------------------------------------------------------------------------


def test_the_report_has_what_forgetting_did(judged: tuple[Path, str, Report]) -> None:
    grid, _, report = judged
    names = {p.name for p in report.files}
    assert {"unlearning.csv", "requests.csv", "split_digits-relapse.png"} <= names
    with (report.html.parent / "unlearning.csv").open() as file:
        rows = {(r["method"], r["figure"]): r for r in csv.DictReader(file)}
    assert {m for m, _ in rows} == {"replay", "discard+replay"}
    found = [
        json.loads((folder_of(grid, "replay", s, "L0 L1 U0 L2") / "audit.json").read_text())
        for s in range(3)
    ]
    js = [f["agreement"]["forget_test"]["js"]["value"] for f in found]
    row = rows["replay", "js"]
    assert float(row["mean"]) == pytest.approx(np.mean(js)) and row["n"] == "3"
    assert float(row["worst"]) == pytest.approx(max(js))
    assert float(rows["discard+replay", "fa"]["mean"]) == 0.0, "no output is left to be right by"
    page = report.html.read_text()
    assert "<h3>Unlearning" in page and "<h3>Request by request, RA / FA" in page
    assert 'id="split_digits-relapse"' in page


def test_companions_are_no_methods(judged: tuple[Path, str, Report]) -> None:
    grid, _, report = judged
    own, beside = cells_of(grid)
    assert {r["cell"] for r in report.tables["cells"]} == {p.name for p in own}
    assert {r["method"] for r in report.tables["metrics"]} == {"replay", "discard+replay"}
    assert report.summary.startswith("6 of 6 cells finished.")
    assert not any(p.name in report.html.read_text() for p in beside)


def test_a_companion_that_is_not_done_is_told_of_in_the_report(grid: Path) -> None:
    lost = folder_of(grid, "replay", 0, "L1 L2")
    RunStore(lost).update_record(status="failed")
    assert read(grid).warnings == (f"a run that the audit needs is failed: {lost.name}",)


def test_runs_that_are_not_judged_are_told_of_in_the_report(grid: Path) -> None:
    assert read(grid).warnings == ()
    (folder_of(grid, "replay", 0, "L0 L1 U0 L2") / "audit.json").unlink()
    told = "1 of 6 runs that were told to forget are not judged: clframe audit gone"
    assert read(grid).warnings == (told,)
