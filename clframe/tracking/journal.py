"""The append-only record of all that a running cell measures; a kill loses at most a torn last row.

A file is a sequence of frames, and a frame is

    magic 4s | kind 12s | length u32 | crc32 u32 | payload of `length` bytes

The payload opens with its own header, a u32 length and JSON `[[name, dtype, shape, text], ...]`,
and then holds the bytes of each array in that order. The checksum covers kind, length and payload.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clframe.errors import TrainingError

MAGIC = b"CLJ1"
_PREFIX = struct.Struct("<4s12sI")
_CRC = struct.Struct("<I")
_SIZE = struct.Struct("<I")
_HEADER = _PREFIX.size + _CRC.size

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Frame:
    """One row of the journal, and the bytes of the file it fills."""

    kind: str
    payload: bytes
    start: int
    end: int

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The named arrays; unpacked only now, since most readers look at few kinds."""
        return _unpacked(self.payload)


class Journal:
    """Appends frames, each in one write to the operating system, so that it outlives this process.

    `resume_at` cuts the file off at that offset, which must end a frame; None starts anew.
    """

    def __init__(self, path: Path | str, resume_at: int | None = None) -> None:
        self.path = Path(path)
        if resume_at:
            _check_boundary(self.path, resume_at)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        self._offset = resume_at or 0
        os.ftruncate(self._fd, self._offset)

    @property
    def offset(self) -> int:
        """The end of the last frame."""
        return self._offset

    def append(self, kind: str, **arrays: npt.ArrayLike) -> None:
        """Add one frame of numbers, booleans and strings; other types are refused."""
        view = memoryview(_packed(kind, arrays))
        written = 0
        try:
            while written < len(view):  # one write; more only when a signal or a full disk cut it
                written += os.pwrite(self._fd, view[written:], self._offset + written)
        except OSError:
            os.ftruncate(self._fd, self._offset)
            raise
        self._offset += len(view)

    def sync(self) -> None:
        """Have what was appended survive a loss of power, too."""
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def frames(path: Path | str, start: int = 0) -> Iterator[Frame]:
    """The whole frames from byte `start` on, ending before the first torn or corrupt one."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while (frame := _next(file, start)) is not None:
                yield frame
                start = frame.end
    except FileNotFoundError:  # a cell that has not come to its first row
        return


def _check_boundary(path: Path, offset: int) -> None:
    """Refuse to resume where no frame ends: the file lost what the checkpoint relies on."""
    end = 0
    for frame in frames(path):
        end = frame.end
        if end >= offset:
            break
    if end != offset:
        raise TrainingError(
            f"{path.name}: cannot resume at byte {offset}: no frame ends there, the last whole one "
            f"before it ends at byte {min(end, offset)}. Delete {path.parent} to run the cell anew."
        )


def _packed(kind: str, arrays: dict[str, npt.ArrayLike]) -> bytes:
    name = kind.encode("ascii")
    if not 0 < len(name) <= 12:
        raise ValueError(f"a frame's kind has 1 to 12 ASCII letters, not {kind!r}")
    columns, parts = [], []
    for key, value in arrays.items():
        array = np.asarray(value)
        text = array.dtype.kind == "U"
        if text:
            array = _letters(array)
        elif array.dtype.kind not in "biuf":
            raise TypeError(f"{kind}.{key}: cannot journal an array of type {array.dtype}")
        columns.append((key, array.dtype.str, array.shape, text))
        parts.append(array.tobytes())
    about = json.dumps(columns, separators=(",", ":")).encode()
    payload = b"".join((_SIZE.pack(len(about)), about, *parts))
    prefix = _PREFIX.pack(MAGIC, name, len(payload))
    return b"".join((prefix, _CRC.pack(zlib.crc32(payload, zlib.crc32(prefix))), payload))


def _letters(text: Array) -> Array:
    """Strings of shape [...] as code points [..., width], one byte each when all are ASCII."""
    width = max(text.dtype.itemsize // 4, 1)
    codes = np.ascontiguousarray(text, dtype=f"=U{width}").reshape(-1).view(np.uint32)
    small = codes.max(initial=0) < 128
    return codes.astype(np.uint8 if small else np.uint32).reshape(*text.shape, width)


def _strings(letters: Array) -> Array:
    """The inverse of `_letters`."""
    *shape, width = letters.shape
    return letters.astype(np.uint32).reshape(-1).view(f"U{width}").reshape(shape)


def _next(file: BinaryIO, start: int) -> Frame | None:
    header = file.read(_HEADER)
    if len(header) < _HEADER:
        return None
    magic, kind, length = _PREFIX.unpack_from(header)
    if magic != MAGIC or start + _HEADER + length > os.fstat(file.fileno()).st_size:
        return None
    payload = file.read(length)
    crc = zlib.crc32(payload, zlib.crc32(header[: _PREFIX.size]))
    if len(payload) < length or _CRC.unpack_from(header, _PREFIX.size)[0] != crc:
        return None
    name = kind.rstrip(b"\0").decode("ascii")
    return Frame(name, payload, start, start + _HEADER + length)


def _unpacked(payload: bytes) -> dict[str, Array]:
    (size,) = _SIZE.unpack_from(payload)
    at = _SIZE.size + size
    arrays = {}
    for name, code, shape, text in json.loads(payload[_SIZE.size : at]):
        dtype, count = np.dtype(code), math.prod(shape)
        array = np.frombuffer(payload, dtype, count, at).reshape(shape)
        arrays[name] = _strings(array) if text else array.copy()
        at += count * dtype.itemsize
    return arrays
