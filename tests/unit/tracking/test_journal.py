"""The journal: what goes in comes out, and damage never reaches back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clframe.errors import TrainingError
from clframe.tracking.journal import Frame, Journal, frames

ARRAYS = st.one_of(
    hnp.arrays(
        st.sampled_from([np.int64, np.int32, np.float64, np.float32, np.bool_, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)).map(
        lambda texts: np.array(texts, dtype=str)
    ),
)


def write(path: Path, count: int) -> list[int]:
    """`count` frames; the offsets between them."""
    journal = Journal(path)
    ends = [0]
    for i in range(count):
        journal.append("metrics", keys=["a", "b"], iteration=[i], values=[[i / 3, np.nan]])
        ends.append(journal.offset)
    journal.close()
    return ends


def iterations(path: Path, start: int = 0) -> list[int]:
    return [int(frame.arrays["iteration"][0]) for frame in frames(path, start)]


def same(a: Frame, kind: str, arrays: dict[str, Any]) -> bool:
    return (
        a.kind == kind
        and a.arrays.keys() == arrays.keys()
        and all(a.arrays[k].dtype == v.dtype or v.dtype.kind == "U" for k, v in arrays.items())
        and all(
            np.array_equal(a.arrays[k], v, equal_nan=v.dtype.kind == "f") for k, v in arrays.items()
        )
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["metrics", "trace", "x", "abcdefghijkl"]),
            st.dictionaries(st.sampled_from(["keys", "values", "größe"]), ARRAYS),
        ),
        max_size=4,
    )
)
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.bin"
    journal = Journal(path)
    ends = []
    for kind, arrays in rows:
        journal.append(kind, **arrays)
        ends.append(journal.offset)
    journal.close()
    read = list(frames(path))
    assert [f.end for f in read] == ends
    assert [f.start for f in read] == [0, *ends][: len(ends)]
    assert all(same(f, *row) for f, row in zip(read, rows, strict=True))


def test_arrays_read_are_the_readers_own(tmp_path: Path) -> None:
    write(tmp_path / "j", 1)
    frame = next(frames(tmp_path / "j"))
    frame.arrays["values"][:] = 1.0  # writable, aligned
    assert frame.arrays["values"].flags.aligned
    assert frame.arrays["keys"].tolist() == ["a", "b"]


def test_a_torn_last_frame_is_ignored_wherever_it_tears(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = write(path, 3)
    whole = path.read_bytes()
    for size in range(ends[2], ends[3]):
        path.write_bytes(whole[:size])
        assert iterations(path) == [0, 1]
    path.write_bytes(whole)
    assert iterations(path) == [0, 1, 2]


def test_a_changed_byte_ends_the_reading_there(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = write(path, 3)
    whole = path.read_bytes()
    for at in range(ends[1], ends[2]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert iterations(path) == [0], at


def test_a_length_out_of_a_crash_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = write(path, 2)
    data = bytearray(path.read_bytes())
    data[ends[1] + 16 : ends[1] + 20] = b"\xff" * 4  # a frame of 4 GiB
    path.write_bytes(data)
    tracemalloc.start()
    try:
        assert iterations(path) == [0]
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_zeros_after_a_crash_of_the_machine_are_no_frame(tmp_path: Path) -> None:
    write(tmp_path / "j", 2)
    with open(tmp_path / "j", "ab") as file:
        file.write(bytes(4096))
    assert iterations(tmp_path / "j") == [0, 1]


def test_reading_may_start_at_any_frame_and_goes_on_as_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert iterations(path) == []  # not there yet
    journal = Journal(path)
    journal.append("metrics", iteration=[0])
    reader = frames(path)
    assert next(reader).arrays["iteration"] == [0]
    middle = journal.offset
    journal.append("metrics", iteration=[1])
    assert next(reader).arrays["iteration"] == [1]
    assert iterations(path, middle) == [1]
    assert iterations(path, journal.offset) == []
    assert iterations(path, middle + 1) == []


def test_resuming_cuts_the_rest_off_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = write(path, 4)
    with open(path, "ab") as file:
        file.write(b"torn")
    journal = Journal(path, resume_at=ends[2])
    assert journal.offset == ends[2] == path.stat().st_size
    journal.append("metrics", iteration=[20])
    journal.close()
    assert iterations(path) == [0, 1, 20]


def test_resuming_at_nought_or_not_at_all_starts_anew(tmp_path: Path) -> None:
    for resume_at in (0, None):
        write(tmp_path / "j", 2)
        Journal(tmp_path / "j", resume_at).close()
        assert (tmp_path / "j").stat().st_size == 0


@pytest.mark.parametrize("damage", ["short", "inside", "corrupt", "missing"])
def test_resuming_where_no_frame_ends_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "j"
    ends = write(path, 3)
    at = ends[2]
    if damage == "short":
        os.truncate(path, at - 1)
    elif damage == "inside":
        at -= 1
    elif damage == "corrupt":
        data = bytearray(path.read_bytes())
        data[ends[1] - 1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(TrainingError, match=f"cannot resume at byte {at}"):
        Journal(path, resume_at=at)
    assert (path.read_bytes() if path.exists() else None) == before


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j"
    code = (
        "import sys, time; from clframe.tracking.journal import Journal\n"
        "j = Journal(sys.argv[1])\n"
        "for i in range(10**9): j.append('metrics', iteration=[i]); print(i, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert iterations(path)[: len(seen)] == seen


def test_a_write_that_fails_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("metrics", iteration=[0])
    real, calls = os.pwrite, []

    def full_disk(fd: int, data: Any, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, data[:10], at)

    monkeypatch.setattr(os, "pwrite", full_disk)
    with pytest.raises(OSError, match="No space"):
        journal.append("metrics", iteration=[1])
    monkeypatch.setattr(os, "pwrite", real)
    assert (tmp_path / "j").stat().st_size == journal.offset
    journal.append("metrics", iteration=[2])
    assert iterations(tmp_path / "j") == [0, 2]


def test_a_write_cut_short_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    write(tmp_path / "j", 2)
    assert iterations(tmp_path / "j") == [0, 1]


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array([1 + 2j]), np.array(["2020"], dtype="M8[Y]"), [b"x"]]
)
def test_values_of_other_types_are_refused(tmp_path: Path, value: Any) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(TypeError, match=r"metrics\.values"):
        journal.append("metrics", values=value)
    assert journal.offset == 0


@pytest.mark.parametrize("kind", ["", "thirteen_long", "größe"])
def test_a_kind_is_a_short_word(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError):
        Journal(tmp_path / "j").append(kind, x=[1])


def test_appending_a_block_takes_well_under_a_millisecond(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    keys = [f"acc/exp_{i:02d}" for i in range(20)]
    values, steps = np.random.default_rng(0).random((256, 20)), np.arange(256)
    seconds = []
    for _ in range(200):
        begun = time.perf_counter()
        journal.append("metrics", keys=keys, iteration=steps, values=values)
        seconds.append(time.perf_counter() - begun)
    assert sorted(seconds)[20] < 1e-3  # measured 0.06 ms; the busy machine decides the median


def test_the_journal_needs_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, clframe.tracking.journal, clframe.tracking.store, clframe.tracking.mlflow\n"
        "print([m for m in ('torch', 'mlflow', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
