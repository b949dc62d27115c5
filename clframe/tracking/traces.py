"""Accuracy traces as tables: the journal's counts in Parquet, byte for byte the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clframe.errors import DataError, nearest
from clframe.tracking.files import replace_file
from clframe.tracking.journal import frames

Kind = Literal["trace", "boundary"]

SCHEMA = pa.schema(
    [
        ("iteration", pa.int64()),
        ("train_experience", pa.int32()),
        ("eval_experience", pa.int32()),
        ("readout", pa.dictionary(pa.int32(), pa.string())),
        ("accuracy", pa.float64()),
        ("correct", pa.int64()),
        ("total", pa.int64()),
    ]
)


def from_journal(journal: Path, kind: Kind) -> pa.Table:
    """The rows of all `kind` frames, in the order they were written."""
    parts = [frame.arrays for frame in frames(journal) if frame.kind == kind]
    columns = {}
    for name in ("iteration", "train_experience", "eval_experience", "correct", "total"):
        whole = np.concatenate([part[name] for part in parts]) if parts else np.empty(0)
        columns[name] = whole.astype(np.int64)
    readouts = [pa.array(part["readout"], pa.string()) for part in parts]
    accuracy = np.full(len(columns["total"]), np.nan)
    np.divide(columns["correct"], columns["total"], out=accuracy, where=columns["total"] > 0)
    return pa.table(
        [
            columns["iteration"],
            columns["train_experience"].astype(np.int32),
            columns["eval_experience"].astype(np.int32),
            pa.chunked_array(readouts, pa.string()).combine_chunks().dictionary_encode(),
            accuracy,
            columns["correct"],
            columns["total"],
        ],
        schema=SCHEMA,
    )


def write(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    replace_file(path, sink.getvalue().to_pybytes())


def read(path: Path) -> pa.Table:
    return pq.read_table(path, schema=SCHEMA)


def select(table: pa.Table, readout: str | None) -> pa.Table:
    """The rows of one readout, all of them for None; an unknown readout is an error."""
    if readout is None:
        return table
    names = table["readout"].cast(pa.string())
    known = sorted(names.unique().to_pylist())
    if readout not in known:
        raise DataError(
            f"no readout named {readout!r} in this trace.{nearest(readout, known)} "
            f"Known: {', '.join(known) or 'none, the trace is empty'}"
        )
    return table.filter(pc.equal(names, readout))


def columns(table: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """The columns as arrays."""
    return {name: table[name].to_numpy() for name in table.column_names}
