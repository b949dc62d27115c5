"""Ranks that others start: torchrun, srun and a person's own hands, each tried on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clframe.config.load import load_run
from clframe.errors import ConfigError
from clframe.grid.differences import difference
from clframe.grid.team import free_port, outside
from clframe.ranks import Seat, seat
from tests.conftest import small_words

WORDS = ["strategy=replay", "accelerator=cpu", "track.enabled=false"]
Run = Callable[..., tuple[Path, list[str]]]


def torchrun(words: Sequence[str]) -> list[tuple[list[str], dict[str, str]]]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    return [([*launch, "-m", "clframe", "run", *words, "devices=2"], {})]


def srun(words: Sequence[str]) -> list[tuple[list[str], dict[str, str]]]:
    job = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    job |= {"SLURM_NODELIST": "localhost", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "grid"}
    job |= {"SLURM_NTASKS_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port()}
    command = ["-m", "clframe", "run", *words, "devices=2"]
    return [(command, job | {"SLURM_PROCID": r, "SLURM_LOCALID": r}) for r in ("0", "1")]


def by_hand(words: Sequence[str]) -> list[tuple[list[str], dict[str, str]]]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port()}
    command = ["-m", "clframe", "run", *words, "num_nodes=2"]
    return [(command, meeting | {"NODE_RANK": node}) for node in ("0", "1")]


def _port() -> str:
    return str(free_port())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(commands, name)`: starts all; the folder of the one run, what each of them printed."""

    def start(commands: Sequence[tuple[list[str], dict[str, str]]], name: str) -> object:
        env = os.environ | {"CLFRAME_RUNS": str(tmp_path / name), "CUDA_VISIBLE_DEVICES": ""}
        started = [
            subprocess.Popen(
                [sys.executable, *command], env=env | more, text=True, stdout=subprocess.PIPE
            )
            for command, more in commands
        ]
        said = [process.communicate(timeout=180)[0] for process in started]
        assert [process.returncode for process in started] == [0] * len(started), said
        (folder,) = (tmp_path / name / "solo").iterdir()
        return folder, said

    return start  # type: ignore[return-value]


@pytest.mark.parametrize("launcher", [torchrun, srun, by_hand])
def test_whoever_starts_the_ranks(run: Run, launcher: Callable[..., list]) -> None:  # type: ignore[type-arg]
    words = small_words(*WORDS)
    ours, _ = run([(["-m", "clframe", "run", *words, "devices=2"], {})], "ours")
    theirs, said = run(launcher(words), "theirs")
    assert difference(ours, theirs) is None and ours.name == theirs.name
    assert "".join(said).count("done  acc") == 1, "one process tells, the others are silent"
    assert all(not text for text in said[1:])


def test_the_seat_is_read_from_the_environment() -> None:
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
    assert seat(slurm) is None, "the batch script is no task of srun's"
    assert seat(slurm | {"SLURM_STEP_ID": "0"}) == Seat("srun", 3, 4, 1)
    assert seat(slurm | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}) is None
    elastic = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert seat(elastic) == Seat("torchrun", 1, 2, 1) and seat({"RANK": "1"}) is None


def test_places_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two = load_run(small_words(*WORDS, "devices=2"))
    assert outside(two) is None
    nodes = load_run(small_words(*WORDS, "num_nodes=2"))
    with pytest.raises(ConfigError, match=r"num_nodes: 2 .* torchrun .*missing: NODE_RANK"):
        outside(nodes)
    elastic = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    for key, value in elastic.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=r"devices: 2 .* torchrun has started 4"):
        outside(two)
    assert outside(load_run(small_words(*WORDS))) is None, "a run alone takes no notice"
