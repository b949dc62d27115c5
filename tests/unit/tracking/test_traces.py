"""The journal's rows as Parquet: the same columns, order and bytes each time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clframe.errors import DataError
from clframe.tracking.journal import Journal
from clframe.tracking.store import RunStore

COLUMNS = ["iteration", "train_experience", "eval_experience", "readout"]
COLUMNS += ["accuracy", "correct", "total"]


def journal_rows(store: RunStore) -> None:
    journal = Journal(store.journal_path)
    for iteration in (0, 1):
        for kind, total in (("trace", 4), ("boundary", 40)):
            journal.append(
                kind,
                iteration=[iteration] * 4, train_experience=[0] * 4, eval_experience=[1, 1, 0, 0],
                readout=["net/seen", "net/all"] * 2, correct=[1, 2, 3, iteration],
                total=[total] * 4,
            )  # fmt: skip
        journal.append("metrics", keys=["loss"], iteration=[iteration], values=[[0.5]])
    journal.close()


def test_traces_are_the_journals_rows_in_its_order(store: RunStore) -> None:
    journal_rows(store)
    live = store.read_trace()
    store.write_traces()
    table = pq.read_table(store.trace_path)
    assert table.column_names == COLUMNS
    assert [str(t) for t in table.schema.types] == [
        "int64", "int32", "int32", "dictionary<values=string, indices=int32, ordered=0>",
        "double", "int64", "int64",
    ]  # fmt: skip
    assert table.equals(live) and table.equals(store.read_trace())
    assert table["iteration"].to_pylist() == [0] * 4 + [1] * 4
    assert table["eval_experience"].to_pylist() == [1, 1, 0, 0] * 2
    assert table["accuracy"].to_pylist() == [0.25, 0.5, 0.75, 0.0, 0.25, 0.5, 0.75, 0.25]
    assert store.read_boundary()["accuracy"].to_pylist()[:3] == [0.025, 0.05, 0.075]
    assert store.read_boundary()["total"].to_pylist() == [40] * 8


def test_traces_are_the_same_bytes_each_time(store: RunStore, tmp_path: Path) -> None:
    journal_rows(store)
    store.write_traces()
    first = store.trace_path.read_bytes(), store.boundary_path.read_bytes()
    other = RunStore(tmp_path / "other")
    other.folder.mkdir()
    journal_rows(other)
    other.write_traces()
    assert (other.trace_path.read_bytes(), other.boundary_path.read_bytes()) == first


def test_one_readout_is_chosen_by_name(store: RunStore) -> None:
    journal_rows(store)
    for _ in range(2):  # from the journal, then from the file
        table = store.read_trace("net/all")
        assert set(table["readout"].to_pylist()) == {"net/all"}
        assert table["correct"].to_pylist() == [2, 0, 2, 1]
        with pytest.raises(DataError, match=r"net/al1.*Did you mean 'net/all'.*Known: net/all, "):
            store.read_trace("net/al1")
        store.write_traces()


def test_a_run_without_rows_has_empty_traces(store: RunStore) -> None:
    store.write_traces()
    assert store.read_trace().num_rows == 0 == store.read_boundary().num_rows
    assert store.read_trace().column_names == COLUMNS
