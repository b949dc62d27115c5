"""The accuracy trace: the raw record that every metric is computed from."""

from __future__ import annotations

from collections.abc import Mapping
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
