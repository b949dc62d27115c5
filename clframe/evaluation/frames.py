"""From counts to the frames of the journal: rows of the trace, and the curves people look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from clframe.core.experience import Stream
from clframe.evaluation.counting import MASKS
from clframe.evaluation.order import retained

CURVES = 100  # at most; who looks at more? the trace has them all


@dataclass
class Block:
    """Observations in a row with the same experience in training and the same ones evaluated."""

    train: int  # stream position of the experience being trained
    seen: int
    upto: int
    totals: list[int]
    iterations: list[int] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)


class Frames:
    """Writes blocks as columns; remembers the lowest accuracy of each experience so far."""

    def __init__(self, stream: Stream, readouts: list[str], primary: str, growing: bool) -> None:
        self.stream, self.growing = stream, growing
        self.names, self.primary = np.array(readouts), readouts.index(primary)
        self.positions, self.order = [e.index for e in stream.learned], stream.order()
        self.lows: dict[int, float] = {}  # of each experience no longer trained
        self.after: dict[int, float] = {}  # of each one forgotten, when its request had ended

    def rows(self, block: Block, counts: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Long-format columns of `counts` [t, readouts, upto]."""
        use = self._asked(block)
        readout, experience = np.nonzero(use)
        t, n = len(block.iterations), len(readout)
        positions = np.array(self.positions, dtype=np.int64)[experience]
        totals = np.array(block.totals, dtype=np.int64)[experience]
        return {
            "iteration": np.repeat(np.array(block.iterations, dtype=np.int64), n),
            "train_experience": np.full(t * n, block.train, dtype=np.int64),
            "eval_experience": np.tile(positions, t),
            "readout": np.tile(self.names[readout], t),
            "correct": counts[:, readout, experience].reshape(-1),
            "total": np.tile(totals, t),
        }

    def _asked(self, block: Block) -> npt.NDArray[np.bool_]:
        """[readouts, upto]: a class not met yet has no row under the mask `seen`."""
        use = np.ones((len(self.names), block.upto), dtype=bool)
        learned = self.stream.learned
        met = {c for e in learned[: max(block.seen, 1)] for c in e.classes}
        for i in range(block.seen, block.upto):
            if not met.issuperset(learned[i].classes):
                # of a growing head there is no output to ask yet
                use[:: 1 if self.growing else len(MASKS), i] = False
        return use

    def series(self, block: Block, counts: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The curves: accuracies, and of those not forgotten min-ACC and WC-ACC.

        Of a stream of more than `CURVES` experiences, every second, third, ... has a curve. Once
        something has been forgotten: the mean accuracy on it, and what of it has come back since.
        """
        seen, every = block.seen, -(-len(self.positions) // CURVES)
        keys = [f"acc/exp_{p:02d}" for p in self.positions[:seen:every]]
        keys += ["min_acc", "wc_acc", "avg_acc"]
        accuracy = counts[:, self.primary, :seen] / np.array(block.totals[:seen])
        values = np.full((len(accuracy), len(keys)), np.nan)
        values[:, :-3] = accuracy[:, ::every]
        passed = self.order[: block.train + 1]
        held = set(retained(passed))
        kept = [j for j in range(seen) if self.positions[j] in held]
        iteration = np.array(block.iterations, dtype=np.int64)
        if kept:
            trained = iteration > 0
            values[trained, -3:] = self._worst(accuracy[trained][:, kept], kept, block.train)
        gone = [j for j in range(seen) if self.positions[j] not in held]
        lost = [j for j in gone if not self._again(j, passed)]
        if lost:
            keys += ["forget_acc", "relapse"]
            values = np.column_stack([values, self._relapse(accuracy[:, lost], lost, block.train)])
        return {"keys": np.array(keys), "iteration": iteration, "values": values}

    def _again(self, j: int, passed: Sequence[dict[str, Any]]) -> bool:
        """Whether what came with learned experience `j` has been learned again since."""
        origin, position = self.stream.learned[j].origin, self.positions[j]
        return any(e["kind"] == "learn" and e["origin"] == origin for e in passed[position + 1 :])

    def _relapse(
        self, acc: npt.NDArray[np.float64], lost: list[int], train: int
    ) -> npt.NDArray[np.float64]:
        """[t, 2]: mean accuracy `acc` [t, lost], and over that at the end of each one's request."""
        now = self.stream.experiences[train]
        for column, j in enumerate(lost):
            if self.positions[j] in now.forgets and len(acc):
                self.after[j] = float(acc[-1, column])
        since = acc - np.array([self.after.get(j, math.nan) for j in lost])
        since[:, [self.positions[j] in now.forgets for j in lost]] = 0.0
        return np.column_stack([acc.mean(1), since.mean(1)])

    def _worst(
        self, acc: npt.NDArray[np.float64], kept: list[int], train: int
    ) -> npt.NDArray[np.float64]:
        """[t, 3]: min-ACC, WC-ACC and the mean after each evaluation `acc` [t, kept].

        Where none of those `kept` is being learned, as in a request, there are minima alone.
        """
        learning = self.positions[kept[-1]] == train
        olds, latest = kept[:-1] if learning else kept, acc[:, -1]
        out = np.column_stack([np.full(len(acc), math.nan), latest, acc.mean(1)])
        if olds and len(acc):
            before = [[self.lows.get(old, math.inf) for old in olds]]
            rows = np.concatenate([before, acc[:, : len(olds)]])
            lows = np.minimum.accumulate(rows, axis=0)[1:]
            self.lows.update(zip(olds, lows[-1].tolist(), strict=True))
            low = lows.mean(1)
            out[:, 0] = out[:, 1] = low
            if learning:
                out[:, 1] = latest / len(kept) + (1 - 1 / len(kept)) * low
        return out
