"""An accuracy trace as arrays, checked once, so that every metric can trust what it reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clframe.errors import ClframeError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = Iterable[Sequence[float]] | npt.NDArray[np.float64]

_COLUMNS = ("iteration", "train_experience", "eval_experience", "accuracy")


class TraceError(ClframeError):
    """A trace, or a reference beside it, that no metric can be computed from."""


@dataclass(frozen=True)
class Timeline:
    """Evaluations in time order: K experiences, N evaluated iterations in S >= K stages.

    A stage learns one of the K, or, where only some experiences count, something else.
    iterations, at: [N], the update count and the stage it is in.
    accuracy: [K, N], NaN where an experience was not evaluated.
    starts, stops: [S], the positions in [0, N) that are in a stage; t=0 is in none.
    own: [K], the stage in which an experience is learnt; own[0] is 0.
    stages, experiences: [S] and [K], their positions in the stream.
    """

    iterations: Ints
    at: Ints
    accuracy: Floats
    starts: Ints
    stops: Ints
    own: Ints
    stages: Ints
    experiences: Ints

    @property
    def num_experiences(self) -> int:
        return len(self.own)

    @property
    def num_stages(self) -> int:
        return len(self.starts)

    @property
    def boundaries(self) -> Ints:
        """[S]: the last evaluated iteration of each stage."""
        return self.iterations[self.stops - 1]

    @property
    def seen(self) -> Ints:
        """[S]: how many experiences have been learnt by the end of a stage."""
        return np.searchsorted(self.own, np.arange(self.num_stages), side="right")

    @property
    def past(self) -> Ints:
        """[S]: how many experiences were learnt before a stage."""
        return np.searchsorted(self.own, np.arange(self.num_stages), side="left")

    def initial(self) -> list[float | None]:
        """Accuracy of the untouched model on each experience."""
        if self.starts[0] == 0:
            return [None] * self.num_experiences
        return [defined(value) for value in self.accuracy[:, 0].tolist()]

    def matrix(self) -> list[list[float | None]]:
        """R[s][i]: accuracy on i at the end of stage s."""
        rows = self.accuracy[:, self.stops - 1].T
        cells = rows.astype(object)
        cells[np.isnan(rows)] = None
        return cells.tolist()  # type: ignore[no-any-return]

    def while_seen(self, i: int) -> Floats:
        """Evaluations of i from its own stage on; of 0 also the one at t=0, if present."""
        untouched = i == 0 and self.starts[0] == 1 and not math.isnan(self.accuracy[0, 0])
        return self.accuracy[i, 0 if untouched else self.starts[self.own[i]] :]

    def while_learnt(self, i: int) -> Floats:
        """Evaluations of i at the updates of its own stage."""
        return self.accuracy[i, self.starts[self.own[i]] : self.stops[self.own[i]]]

    def after(self, i: int) -> Floats:
        """Evaluations of i once its own stage is over; none if that is the last one."""
        return self.accuracy[i, self.stops[self.own[i]] :]


def defined(value: float) -> float | None:
    """The value, or None where an array says NaN."""
    return None if math.isnan(value) else value


def mean(values: Iterable[float | None]) -> float | None:
    """The mean, undefined as soon as one member is, or when there is none."""
    members = list(values)
    if not members or None in members:
        return None
    return math.fsum(members) / len(members)  # type: ignore[arg-type]


def mean_present(values: Iterable[float | None]) -> float | None:
    """The mean of the defined members, for the metrics that say "skip"."""
    return mean(m for m in values if m is not None)


def read(rows: Rows, kept: Iterable[int] | None = None) -> Timeline:
    """Check and arrange rows (iteration, train_experience, eval_experience, accuracy).

    Of those at stream positions `kept` if not of all; what is before the first of them is left out.
    """
    table = _table(rows)
    _check_cells(table)
    if kept is not None:
        kept = [*kept]
        table = _only(table, kept)
    t, e, i = (column.astype(np.int64) for column in table.T[:3])
    _check_untouched(t, e)
    iterations, position = np.unique(t, return_inverse=True)
    learning = np.empty_like(iterations)
    learning[position] = e
    _check_order(iterations, learning, position, e)
    experiences = np.arange(_count_experiences(t, e, i)) if kept is None else np.array(kept)

    accuracy = np.full((len(experiences), len(iterations)), np.nan)
    accuracy[np.searchsorted(experiences, i), position] = table[:, 3]
    _check_repeats(accuracy, t, i)
    first = int(iterations[0] == 0)
    stages = np.unique(learning[first:])
    line = Timeline(
        iterations=iterations,
        at=np.searchsorted(stages, learning),
        accuracy=accuracy,
        starts=first + np.searchsorted(learning[first:], stages, side="left"),
        stops=first + np.searchsorted(learning[first:], stages, side="right"),
        own=np.searchsorted(stages, experiences),
        stages=stages,
        experiences=experiences,
    )
    _check_seen(line, first)
    return line


def _only(table: Floats, kept: Sequence[int]) -> Floats:
    """The rows that are about the experiences `kept`, from the first one's learning on."""
    if not kept or sorted({*kept}) != kept:
        raise TraceError(f"kept are positions in the stream's order, one at least; got {kept}")
    t, e, i = table.T[:3]
    learnt = {*np.unique(e[t >= 1]).astype(int).tolist()}
    if missing := sorted({*kept} - learnt):
        raise TraceError(
            f"experience {missing[0]} was never learnt: no row at iteration >= 1 has "
            f"train_experience {missing[0]}, though it is among those kept"
        )
    return table[np.isin(i, kept) & ((e >= kept[0]) | (t == 0))]


def _table(rows: Rows) -> Floats:
    """The rows as a [n, 4] array."""
    try:
        whole = rows if hasattr(rows, "__array__") or isinstance(rows, (list, tuple)) else [*rows]
        table = np.asarray(whole, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TraceError(f"a trace is rows of four numbers, {_COLUMNS}; got {error}") from error
    if len(table) == 0:
        raise TraceError("the trace is empty; expected one row for each evaluated experience")
    if table.ndim != 2 or table.shape[1] != len(_COLUMNS):
        raise TraceError(
            f"a trace is rows of four numbers, {_COLUMNS}; got an array of shape {table.shape}"
        )
    return table


def _check_cells(table: Floats) -> None:
    counts = table[:, :3]
    with np.errstate(invalid="ignore"):
        bad_count = (counts != np.floor(counts)) | ~((counts >= 0) & (counts < 2**53))
        bad_accuracy = ~((table[:, 3] >= 0) & (table[:, 3] <= 1))
    for column, bad in enumerate((*bad_count.T, bad_accuracy)):
        if bad.any():
            row = ", ".join(f"{v:g}" for v in table[np.flatnonzero(bad)[0]])
            rule = "a number from 0 to 1 (100% is 1.0)" if column == 3 else "a whole number >= 0"
            raise TraceError(f"trace row ({row}): {_COLUMNS[column]} must be {rule}")


def _check_untouched(t: Ints, e: Ints) -> None:
    bad = np.flatnonzero((t == 0) & (e != 0))
    if len(bad):
        raise TraceError(
            f"a row at iteration 0 has train_experience {e[bad[0]]}; "
            "iteration 0 is the untouched model and its rows carry train_experience 0"
        )


def _check_order(iterations: Ints, learning: Ints, position: Ints, e: Ints) -> None:
    clash = np.flatnonzero(learning[position] != e)
    if len(clash):
        p = position[clash[0]]
        raise TraceError(
            f"iteration {iterations[p]} is given to train_experience {e[clash[0]]} and to "
            f"{learning[p]}; an iteration belongs to one experience"
        )
    back = np.flatnonzero(np.diff(learning) < 0)
    if len(back):
        b = back[0]
        raise TraceError(
            f"train_experience falls from {learning[b]} at iteration {iterations[b]} to "
            f"{learning[b + 1]} at iteration {iterations[b + 1]}; experiences are learnt in order"
        )


def _count_experiences(t: Ints, e: Ints, i: Ints) -> int:
    """K, given that each of 0..K-1 was learnt."""
    learnt = np.unique(e[t >= 1])
    highest = int(max(e.max(), i.max()))
    if len(learnt) != highest + 1:
        gaps = np.flatnonzero(learnt != np.arange(len(learnt)))
        missing = int(gaps[0]) if len(gaps) else len(learnt)
        raise TraceError(
            f"experience {missing} was never learnt: no row at iteration >= 1 has train_experience "
            f"{missing}, though the trace names experience {highest}"
        )
    return highest + 1


def _check_repeats(accuracy: Floats, t: Ints, i: Ints) -> None:
    if np.count_nonzero(~np.isnan(accuracy)) == len(t):
        return
    pairs, times = np.unique(np.stack((t, i)), axis=1, return_counts=True)
    iteration, experience = pairs[:, np.argmax(times > 1)]
    raise TraceError(
        f"duplicate rows: iteration {iteration} evaluates experience {experience} more than once; "
        "a trace has one row for each iteration and eval_experience"
    )


def _check_seen(line: Timeline, first: int) -> None:
    seen = line.own[:, None] <= line.at[first:]
    missing = np.isnan(line.accuracy[:, first:]) & seen
    if missing.any():
        column = int(np.argmax(missing.any(axis=0)))
        raise TraceError(
            f"iteration {line.iterations[first + column]} has no accuracy of experience "
            f"{line.experiences[np.argmax(missing[:, column])]}, which is seen by then "
            f"(train_experience {line.stages[line.at[first + column]]}); every seen experience is "
            "evaluated at every iteration >= 1"
        )
