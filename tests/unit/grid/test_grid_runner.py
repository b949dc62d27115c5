"""A whole grid over stand-in cells: what is shown, run, skipped, isolated, resumed, reported."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from clframe.config.grid import GridSpec, load_grid
from clframe.config.load import load_run
from clframe.errors import ClframeError, ConfigError
from clframe.grid import runner
from clframe.grid.cluster import _shares
from clframe.grid.engines import Resources
from clframe.grid.launch import Handle, Launch
from clframe.grid.runner import run_grid, run_one
from clframe.grid.supervise import Progress
from clframe.tracking.store import RunStore

Faked = Callable[..., Launch]
GRID = """
name: g
axes:
  strategy: [fine_tune, replay]
  scenario: [split_digits]
  seed: [0, 1]
base: {track: {enabled: false}}
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C counts, also where a shell has started the tests in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Run:
    """Runs the grid in `folder` and keeps what was printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = ""

    def spec(self, *words: str) -> GridSpec:
        path = self.folder / "g.yaml"
        path.write_text(GRID)
        return load_grid(path, words)

    def __call__(self, launch: Launch, *words: str, workers: int = 1, dry_run: bool = False) -> int:
        out = StringIO()
        console = Console(file=out, width=60)
        runs = self.folder / "runs"
        code = run_grid(self.spec(*words), runs, workers, console, dry_run=dry_run, launch=launch)
        self.text = out.getvalue()
        return code

    @property
    def states(self) -> dict[str, str]:
        folders = sorted((self.folder / "runs" / "g").glob("*/"))
        return {p.name.rpartition("-")[0]: RunStore(p).state() for p in folders}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_grid_runs_to_its_end(run: Run, faked: Faked) -> None:
    assert run(faked()) == 0
    assert set(run.states.values()) == {"done"} and len(run.states) == 4
    assert run.text.splitlines()[:4] == [
        "scenario      strategy   to run (seeds)",
        "split_digits  fine_tune  0 1",
        "split_digits  replay     0 1",
        "4 cells: 0 done, 4 to run",
    ]
    assert re.search(r"^\[4/4\] .* done +split_digits-replay-s1-", run.text, re.MULTILINE)
    assert run.text.splitlines()[-2] == "4 cells: 4 done, 0 to run"
    assert run.text.splitlines()[-1] == str(run.folder / "runs" / "g")


def test_a_dry_run_only_shows(run: Run, faked: Faked) -> None:
    assert run(faked(), dry_run=True) == 0
    assert "4 cells: 0 done, 4 to run" in run.text and not (run.folder / "runs").exists()


def test_the_resolved_grid_is_kept_with_its_cells(run: Run, faked: Faked) -> None:
    run(faked(), "epochs=2", "seed=[7]")
    folder = run.folder / "runs" / "g"
    kept = yaml.safe_load((folder / "grid.yaml").read_text())
    assert kept["axes"]["seed"] == [7] and kept["base"]["epochs"] == 2
    ids = [c.name for c in folder.glob("*/")]
    again = load_grid(folder / "grid.yaml")
    from clframe.config.identity import run_id

    assert sorted(map(run_id, again.cells())) == sorted(ids)
    config = yaml.safe_load(next(folder.glob("*/config.yaml")).read_text())
    assert config["epochs"] == 2 and config["optim"]["lr"] == 0.05


def test_a_failing_cell_is_isolated_and_tried_again(run: Run, faked: Faked) -> None:
    launch = faked(**{"replay-s0": "fail", "fine_tune-s1": "crash", "fine_tune-s0": "crash once"})
    assert run(launch) == 1
    assert run.states == {
        "split_digits-fine_tune-s0": "done",
        "split_digits-fine_tune-s1": "failed",
        "split_digits-replay-s0": "failed",
        "split_digits-replay-s1": "done",
    }
    assert "ValueError: the loss is nan\n" in run.text
    assert re.search(r"fine_tune-s1-\w+: killed by SIGKILL", run.text)
    logs = re.findall(r"log: (.*)", run.text)
    assert len(logs) == 2 and all(Path(log).is_file() for log in logs)
    assert run.text.splitlines()[-2] == "4 cells: 2 done, 0 to run, 2 to retry (failed)"
    assert run(faked()) == 0
    assert run.text.splitlines()[:2] == [
        "scenario      strategy   done (seeds)  retry",
        "split_digits  fine_tune  0             1",
    ]
    assert set(run.states.values()) == {"done"}


def test_a_cell_that_cannot_be_started_is_isolated_too(run: Run, faked: Faked) -> None:
    real = faked()

    def launch(folder: Path, env: dict[str, str], log: Path) -> Handle:
        if "replay-s0" in folder.name:
            raise OSError("no more processes")
        return real(folder, env, log)

    assert run(launch) == 1
    assert list(run.states.values()) == ["done", "done", "failed", "done"]
    assert "OSError: no more processes" in run.text


def test_what_is_done_is_not_run_again(run: Run, faked: Faked) -> None:
    run(faked(), "seed=[0]")
    attempts = {p: p.read_text() for p in (run.folder / "runs").glob("g/*/record.json")}
    assert run(faked()) == 0
    assert "4 cells: 2 done, 2 to run" in run.text
    assert all(p.read_text() == text for p, text in attempts.items())
    assert run(faked(split="fail")) == 0  # nothing is left to fail
    assert "4 cells: 4 done, 0 to run" in run.text


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_grid_goes_on_where_it_was(
    run: Run, faked: Faked, sent: signal.Signals
) -> None:
    def stop() -> None:
        while not list((run.folder / "runs").glob("g/*fine_tune-s1*/hangs")):
            time.sleep(0.01)
        os.kill(os.getpid(), sent)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    assert run(faked(**{"fine_tune-s1": "hang"})) == runner.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert "interrupted; the same command goes on" in run.text
    assert list(run.states.values()) == ["done", "interrupted", "missing", "missing"]
    assert run.text.splitlines()[-1] == str(run.folder / "runs" / "g")
    assert run(faked()) == 0
    assert "4 cells: 1 done, 2 to run, 1 to resume" in run.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_falls_into_a_collectors_callback_is_not_lost(
    run: Run, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python ignores what is raised there, and libraries such as jax have such callbacks."""
    sent: list[int] = []

    def callback(phase: str, info: object) -> None:
        if not sent and list((run.folder / "runs").glob("g/*fine_tune-s1*/hangs")):
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    step = runner.Display.step

    def collecting(self: runner.Display, progress: Progress) -> None:
        gc.collect()
        step(self, progress)

    monkeypatch.setattr(runner.Display, "step", collecting)
    gc.callbacks.append(callback)
    try:
        assert run(faked(**{"fine_tune-s1": "hang"})) == runner.INTERRUPTED
    finally:
        gc.callbacks.remove(callback)
    assert sent and list(run.states.values()) == ["done", "interrupted", "missing", "missing"]


@pytest.mark.parametrize("where", [None, "local"])
def test_many_run_at_once_and_what_crashes_is_retried(
    run: Run, faked: Faked, monkeypatch: pytest.MonkeyPatch, where: str | None
) -> None:
    if where is not None:
        monkeypatch.setenv("RAY_ADDRESS", where)
    monkeypatch.setenv("SLURM_PROCID", "3")
    modes = {"replay-s0": "fail", "fine_tune-s0": "crash once", "s1": "meet"}
    assert run(faked(**modes), workers=3) == 1
    assert list(run.states.values()) == ["done", "done", "failed", "done"]
    assert "ValueError: the loss is nan\n" in run.text
    assert run.text.splitlines()[-1] == str(run.folder / "runs" / "g")
    crashed, met, *_ = sorted((run.folder / "runs" / "g").glob("*/"))
    assert RunStore(crashed).read_record().attempts == 2
    env = json.loads((met / "environment.json").read_text())
    assert env["OMP_NUM_THREADS"] == "1" and "SLURM_PROCID" not in env


def test_what_was_given_up_is_said_at_the_end(run: Run, faked: Faked) -> None:
    launch = faked()

    def honest(folder: Path, env: dict[str, str], log: Path) -> Handle:
        RunStore(folder).update_record(counting={"fallback": "eval.mode bf16 was given up: 3"})
        return launch(folder, env, log)

    assert run(honest) == 0
    assert len(re.findall(r"note: \S+: eval.mode bf16 was", " ".join(run.text.split()))) == 4


@pytest.mark.parametrize("where", [None, "local"])
def test_mlflow_hears_of_every_cell_of_a_parallel_grid(
    run: Run, faked: Faked, monkeypatch: pytest.MonkeyPatch, where: str | None
) -> None:
    """From this process, at its end at the latest: workers elsewhere know nothing of MLflow."""
    if where is not None:
        monkeypatch.setenv("RAY_ADDRESS", where)
    told: list[tuple[str, str]] = []
    store = "the store"

    class Uploader:
        def __init__(self, target: object, folder: Path) -> None:
            self.name = folder.name.rpartition("-")[0]
            assert target == store

        def push(self) -> None:
            told.append((self.name, "pushed"))

        def finish(self, status: str) -> bool:
            told.append((self.name, status))
            return True

    import clframe.tracking.mlflow

    monkeypatch.setattr(clframe.tracking.mlflow, "RunUploader", Uploader)
    monkeypatch.setattr(clframe.tracking.mlflow, "prepare", lambda *_: store)
    assert run(faked(**{"replay-s0": "fail"}), "track.enabled=true", workers=2) == 1
    assert sorted(told) == [
        ("split_digits-fine_tune-s0", "done"),
        ("split_digits-fine_tune-s1", "done"),
        ("split_digits-replay-s0", "failed"),
        ("split_digits-replay-s1", "done"),
    ]
    assert not list(run.folder.glob("runs/g/*/.upload-pending"))


def test_what_ray_can_never_give_is_refused_at_once() -> None:
    def shares(need: Resources, **has: float) -> dict[str, float]:
        return _shares(has, {Path("a"): need}, workers=4)[Path("a")]

    assert shares(Resources(2), CPU=2) == {"num_cpus": 2.0, "num_gpus": 0.0}
    assert shares(Resources(1), CPU=8, GPU=1)["num_gpus"] == 0.25
    assert shares(Resources(1), CPU=8, GPU=8)["num_gpus"] == 1.0
    assert shares(Resources(2, 2, "gpu"), CPU=8, GPU=8)["num_gpus"] == 2.0
    assert shares(Resources(1, 1, "cpu"), CPU=8, GPU=8)["num_gpus"] == 0.0
    with pytest.raises(ConfigError, match=r"a needs 9 CPUs .* are 8 and 0\.\n.*--workers 1"):
        shares(Resources(9), CPU=8)
    with pytest.raises(ConfigError, match="and 1 GPUs at once"):
        shares(Resources(1, 1, "gpu"), CPU=8)


def run_words(folder: Path, launch: Launch, *words: str) -> tuple[int, list[str]]:
    out = StringIO()
    base = ["strategy=fine_tune", "scenario=split_digits", "track.enabled=false", *words]
    code = run_one(load_run(base), folder / "runs", Console(file=out, width=60), launch=launch)
    return code, out.getvalue().splitlines()


def test_a_single_run(tmp_path: Path, faked: Faked) -> None:
    code, lines = run_words(tmp_path, faked())
    folder = Path(lines[-1])
    assert code == 0 and folder.parent == tmp_path / "runs" / "solo"
    assert lines[-2] == "done  acc 0.750  (0.0 s)"
    assert RunStore(folder).read_record().grid == "solo"
    code, lines = run_words(tmp_path, faked(split="fail"))
    assert code == 0 and "is done already" in lines[0] and lines[-1] == str(folder)


def test_a_single_run_that_fails(tmp_path: Path, faked: Faked) -> None:
    code, lines = run_words(tmp_path, faked(split="fail"))
    assert code == 1 and Path(lines[-1]).is_dir()
    assert any("ValueError: the loss is nan" in line for line in lines)
    assert run_words(tmp_path, faked())[0] == 0


def test_a_single_run_of_bad_input_leaves_nothing(tmp_path: Path, faked: Faked) -> None:
    with pytest.raises(ClframeError, match=r"options\.x: not possible"):
        run_words(tmp_path, faked(split="bad"))
    assert not list((tmp_path / "runs" / "solo").iterdir())


def test_the_runner_starts_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, clframe.grid.runner, clframe.grid.check, clframe.cli.show\n"
    code += "assert not {'torch', 'mlflow', 'ray', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
