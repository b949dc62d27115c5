"""The accuracy trace: the raw record that every metric is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AccuracyTrace:
    """One row per (iteration, evaluated experience) of one readout; all arrays are [n]."""

    iteration: npt.NDArray[np.int64]
    train_experience: npt.NDArray[np.int64]
    eval_experience: npt.NDArray[np.int64]
    accuracy: npt.NDArray[np.float64]

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], readout: str) -> AccuracyTrace:
        """The rows of `readout` out of the columns of `trace.parquet`."""
        mine = np.asarray(columns["readout"], dtype=str) == readout

        def pick(name: str, kind: type) -> npt.NDArray[Any]:
            return np.asarray(columns[name])[mine].astype(kind)

        return cls(
            pick("iteration", np.int64),
            pick("train_experience", np.int64),
            pick("eval_experience", np.int64),
            pick("accuracy", np.float64),
        )

    def rows(self) -> npt.NDArray[np.float64]:
        """[n, 4] rows (iteration, train_experience, eval_experience, accuracy) for `summarize`."""
        return np.column_stack(
            [self.iteration, self.train_experience, self.eval_experience, self.accuracy]
        )

    def retained(self, kept: Sequence[int]) -> AccuracyTrace:
        """Only the experiences at stream positions `kept`, renumbered 0, 1, ... as if alone.

        Updates spent on anything else (a forget request, an experience forgotten later) extend the
        window of the retained experience before them; those before the first one are dropped.
        """
        order = np.asarray(sorted(kept), dtype=np.int64)
        train = np.searchsorted(order, self.train_experience, side="right") - 1
        start = self.iteration == 0
        use = np.isin(self.eval_experience, order) & ((train >= 0) | start)
        return AccuracyTrace(
            self.iteration[use],
            np.maximum(train[use], 0),
            np.searchsorted(order, self.eval_experience[use]),
            self.accuracy[use],
        )
