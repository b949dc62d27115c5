"""Keys that need a reference run are filled in from the grid's own joint and independent cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clframe.config.load import load_run
from clframe.evaluation.metrics import summarize
from clframe.grid.references import update
from clframe.grid.runner import write_config
from clframe.tracking import traces
from clframe.tracking.journal import Journal
from clframe.tracking.store import RunRecord, RunStore

EXAMPLE = json.loads((Path(__file__).with_name("references.json")).read_text())
Done = Callable[..., RunStore]


def boundaries(
    matrix: list[list[float]], initial: list[float]
) -> list[tuple[int, int, int, float]]:
    """Rows of a boundary table: everything at 0, then at the end of each experience."""
    rows = [(0, 0, i, a) for i, a in enumerate(initial)]
    for k, line in enumerate(matrix):
        rows += [(4 * (k + 1), k, i, a) for i, a in enumerate(line)]
    return rows


@pytest.fixture
def done(tmp_path: Path) -> Done:
    """`done(strategy, matrix, reference=..., words)`: a finished cell of the grid in tmp_path."""

    def make(
        strategy: str,
        matrix: list[list[float]],
        *words: str,
        reference: str | None = None,
        forgets: tuple[int, ...] = (),
    ) -> RunStore:
        cfg = load_run([f"strategy={strategy}", "scenario=split_digits", *words])
        store = RunStore(tmp_path / f"{strategy}{len(list(tmp_path.iterdir()))}")
        write_config(cfg, store.folder)
        rows = boundaries(matrix, EXAMPLE["initial"])
        journal = Journal(store.journal_path)
        names = ("iteration", "train_experience", "eval_experience")
        columns = {n: [int(r[i]) for r in rows] for i, n in enumerate(names)}
        correct = [round(r[3] * 10_000) for r in rows]
        totals = [10_000] * len(rows)
        readout = ["net/seen"] * len(rows)
        journal.append("boundary", **columns, correct=correct, total=totals, readout=readout)
        journal.close()
        traces.write(traces.from_journal(store.journal_path, "boundary"), store.boundary_path)
        stream = [{"index": k, "kind": "learn", "forgets": []} for k in range(len(matrix))]
        stream += [{"index": len(matrix), "kind": "forget", "forgets": list(forgets)}] * bool(
            forgets
        )
        record = RunRecord(id=store.folder.name, grid="g", started_ms=1, status="done")
        store.write_record(
            record.model_copy(update={"data": {"experiences": stream}, "reference": reference})
        )
        store.write_metrics({"acc_final": 0.5, "R": matrix})
        return store

    return make


def joint(done: Done, *words: str) -> RunStore:
    prefix, last = EXAMPLE["joint_prefix"], EXAMPLE["joint_all"]
    matrix = [[prefix[i] if i == k else 0.5 for i in range(3)] for k in range(2)] + [last]
    return done("joint", matrix, *words, reference="joint")


def independent(done: Done) -> RunStore:
    own = EXAMPLE["independent"]
    matrix = [[own[i] if i == k else 0.1 for i in range(3)] for k in range(3)]
    return done("independent", matrix, reference="independent")


def test_the_worked_example(done: Done, tmp_path: Path) -> None:
    cell = done("replay", EXAMPLE["R"], "options.replay.capacity=7", "eval.rho=3")
    joint(done)
    independent(done)
    assert update(tmp_path) == [cell.folder]
    metrics, record = cell.read_metrics(), cell.read_record()
    for key, value in EXAMPLE["expected"].items():
        assert metrics[key] == pytest.approx(value, abs=1e-9)
        assert record.metrics[key] == metrics[key]
    assert metrics["acc_final"] == 0.5  # what was there stays
    assert update(tmp_path) == []


def test_the_keys_are_those_of_summarize(done: Done, tmp_path: Path) -> None:
    cell = done("replay", EXAMPLE["R"])
    independent(done)
    update(tmp_path)
    rows = boundaries(EXAMPLE["R"], EXAMPLE["initial"])
    expected = summarize(rows, independent=EXAMPLE["independent"])
    key = "fwt_vs_independent"
    assert cell.read_metrics()[key] == pytest.approx(expected[key], abs=1e-9)
    assert not {"intransigence", "forgetting_ratio"} & set(cell.read_metrics())


@pytest.mark.parametrize("word", ["seed=1", "epochs=2", "options.split_digits.experiences=2"])
def test_a_reference_of_another_setting_serves_nobody(
    done: Done, tmp_path: Path, word: str
) -> None:
    done("replay", EXAMPLE["R"])
    joint(done, word)
    assert update(tmp_path) == []


def test_without_references_nothing_changes(done: Done, tmp_path: Path) -> None:
    cell = done("replay", EXAMPLE["R"])
    before = cell.metrics_path.read_bytes()
    assert update(tmp_path) == [] and cell.metrics_path.read_bytes() == before


def test_forgotten_experiences_are_left_out(done: Done, tmp_path: Path) -> None:
    words = ["requests=L0 L1 L2 F1"]
    cell = done("replay", EXAMPLE["R"], *words, forgets=(1,))
    joint(done, *words)
    assert update(tmp_path) == [cell.folder]
    r, prefix = EXAMPLE["R"], EXAMPLE["joint_prefix"]
    expected = ((prefix[0] - r[0][0]) + (prefix[2] - r[2][2])) / 2
    assert cell.read_metrics()["intransigence"] == pytest.approx(expected, abs=1e-9)


def test_unfinished_cells_neither_give_nor_take(done: Done, tmp_path: Path) -> None:
    done("replay", EXAMPLE["R"]).update_record(status="failed")
    done("derpp", EXAMPLE["R"])
    joint(done).update_record(status="interrupted")
    assert update(tmp_path) == []
