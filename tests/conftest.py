"""Cells to run in this process: a folder from `key=value` words, as the command line makes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the cores; set before torch comes

import pytest

from clframe.config.identity import run_id, to_yaml
from clframe.config.load import load_run
from clframe.registry import plugins
from clframe.tracking.store import RunRecord, RunStore

SMALL = (
    "scenario=split_digits",
    "options.split_digits.base=4",
    "options.split_digits.increment=3",
    "options.split_digits.train_limit=16",
    "batch_size=8",
    "eval.subset=30",
    "net.args.hidden=16",
    "threads=1",
)
MakeCell = Callable[..., RunStore]


def small_words(*words: str) -> list[str]:
    """The small run's words, those given winning; a net other than the MLP drops `hidden`.

    A strategy that does not work on any net has its usual one.
    """
    named = [w.removeprefix("strategy=") for w in words if w.startswith("strategy=")]
    found = plugins("strategy").get(named[0].rpartition("+")[2]) if named else None
    if found and found.usual_net and not any(w.startswith("net.name=") for w in words):
        words = (f"net.name={found.usual_net}", *words)
    if found and found.usual_setting and not any(w.startswith("scenario=") for w in words):
        words = (f"options.split_digits.setting={found.usual_setting}", *words)
    given = {w.split("=")[0] for w in words}
    scenario = [w for w in words if w.startswith("scenario=")]
    kept = [w for w in SMALL if w.split("=")[0] not in given]
    if scenario and scenario[0] != SMALL[0]:
        kept = [w for w in kept if not w.startswith("options.split_digits")]
    if any(w.startswith("net.name=") and w != "net.name=mlp" for w in words):
        kept = [w for w in kept if not w.startswith("net.args")]
    return [*kept, *words]


def prepare_cell(folder: Path, *words: str) -> RunStore:
    """A cell's folder as the command line leaves it to the cell."""
    cfg = load_run(small_words(*words))
    store = RunStore(folder)
    store.folder.mkdir()
    store.config_path.write_text(to_yaml(cfg))
    store.write_record(RunRecord(id=run_id(cfg), grid="test", started_ms=1_000_000))
    return store


@pytest.fixture
def make_cell(tmp_path: Path) -> MakeCell:
    """`make_cell("strategy=replay", ..., name="a")` prepares a cell's folder."""

    def make(*words: str, name: str = "cell") -> RunStore:
        return prepare_cell(tmp_path / name, *words)

    return make
