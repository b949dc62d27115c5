"""Curves from counts: of a long stream every k-th experience has one, and means are over all."""

from __future__ import annotations

import numpy as np
import pytest

from clframe.core.experience import Stream
from clframe.evaluation.frames import CURVES, Block, Frames
from tests.unit.evaluation.test_bank import experience


@pytest.mark.parametrize(("length", "every"), [(3, 1), (CURVES, 1), (CURVES + 1, 2), (250, 3)])
def test_a_long_stream_has_a_curve_of_every_few(length: int, every: int) -> None:
    learned = tuple(experience(i, (i,), [(0, i)]) for i in range(length))
    stream = Stream("long", learned, length, "class", tuple(range(length)))
    frames = Frames(stream, ["net/seen"], "net/seen", growing=False)
    block = Block(length - 1, length, length, [1000] * length, [7, 8])
    counts = np.random.default_rng(0).integers(0, 1000, (2, 1, length))
    found = frames.series(block, counts)
    keys = [f"acc/exp_{i:02d}" for i in range(0, length, every)]
    assert found["keys"].tolist() == [*keys, "min_acc", "wc_acc", "avg_acc"] and len(keys) <= CURVES
    assert np.array_equal(found["values"][:, :-3], counts[:, 0, ::every] / 1000)
    assert np.allclose(found["values"][:, -1], counts[:, 0].mean(1) / 1000)
    lows = np.minimum.accumulate(counts[:, 0, :-1], 0).mean(1) / 1000
    assert np.allclose(found["values"][:, -3], lows), "of all experiences, with a curve or not"
