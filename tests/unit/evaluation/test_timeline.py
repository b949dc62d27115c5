"""Every trace that is refused, and that the message says what is wrong and where."""

from __future__ import annotations

import math
from typing import Any

import pytest

from clframe.errors import ClframeError
from clframe.evaluation.metrics import TraceError, lifelong, summarize

REFUSED = {
    "nothing": ([], "empty"),
    "no numbers": ([("a", 0, 0, 0.5)], "four numbers"),
    "not rows": (7, "four numbers"),
    "three columns": ([(1, 0, 0)], "four numbers"),
    "ragged rows": ([(1, 0, 0, 0.5), (1, 0, 1)], "four numbers"),
    "one row, not rows": ((1, 0, 0, 0.5), "four numbers"),
    "duplicate": ([(1, 0, 0, 0.5), (2, 0, 0, 0.5), (2, 0, 0, 0.5)], "iteration 2.*experience 0"),
    "duplicate at zero": ([(0, 0, 1, 0.5)] * 2 + [(1, 0, 0, 0.5), (2, 1, 0, 0.5), (2, 1, 1, 0.5)],
                          "iteration 0.*experience 1"),
    "two experiences at once": ([(1, 0, 0, 0.5), (1, 1, 1, 0.5)], "iteration 1 is given"),
    "decreasing experience": (
        [(1, 0, 0, 0.5), (2, 1, 0, 0.5), (2, 1, 1, 0.5), (3, 0, 0, 0.5)],
        "falls from 1 at iteration 2 to 0 at iteration 3",
    ),
    "skipped experience": (
        [(1, 0, 0, 0.5)] + [(2, 2, i, 0.5) for i in range(3)], "experience 1 was never learnt"
    ),
    "never learnt": ([(1, 0, 0, 0.5), (1, 0, 1, 0.5)], "experience 1 was never learnt"),
    "only t=0": ([(0, 0, 0, 0.5)], "experience 0 was never learnt"),
    "huge index": ([(1, 0, 0, 0.5), (1, 0, 10**12, 0.5)], "experience 1 was never learnt"),
    "t=0 of a later experience": ([(0, 1, 0, 0.5), (1, 0, 0, 0.5)], "untouched model"),
    "missing seen row": (
        [(1, 0, 0, 0.5), (2, 1, 0, 0.5), (2, 1, 1, 0.5), (3, 1, 1, 0.5)],
        "iteration 3 has no accuracy of experience 0",
    ),
    "missing own row": (
        [(1, 0, 0, 0.5), (2, 1, 0, 0.5), (3, 1, 0, 0.5), (3, 1, 1, 0.5)],
        "iteration 2 has no accuracy of experience 1",
    ),
    "accuracy above 1": ([(1, 0, 0, 71.2)], r"\(1, 0, 0, 71.2\): accuracy must be"),
    "negative accuracy": ([(1, 0, 0, -0.1)], "accuracy must be"),
    "NaN": ([(1, 0, 0, math.nan)], "accuracy must be"),
    "None": ([(1, 0, 0, None)], "accuracy must be"),
    "infinite": ([(1, 0, 0, math.inf)], "accuracy must be"),
    "half an iteration": ([(1.5, 0, 0, 0.5)], "iteration must be a whole number"),
    "NaN iteration": ([(math.nan, 0, 0, 0.5)], "iteration must be a whole number"),
    "endless iteration": ([(math.inf, 0, 0, 0.5)], "iteration must be a whole number"),
    "negative iteration": ([(-1, 0, 0, 0.5)], "iteration must be a whole number"),
    "negative experience": ([(1, -1, 0, 0.5)], "train_experience must be a whole number"),
    "negative task": ([(1, 0, -1, 0.5)], "eval_experience must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("rows,message", REFUSED.values(), ids=REFUSED)
def test_a_bad_trace_is_refused(rows: Any, message: str) -> None:
    for metric in (summarize, lifelong):
        with pytest.raises(TraceError, match=message) as caught:
            metric(rows)
        assert isinstance(caught.value, ClframeError)
