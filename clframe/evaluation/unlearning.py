"""What unlearning did to accuracy: from requests and one row of accuracies after each.

Accuracies, chances and everything made of them are fractions (1.0 is 100%); [U] marks definitions
of UnCLe (arXiv 2509.17530), the rest is ours. a_{t,k} is the accuracy on task k after request t;
"L" learns a task, "U" unlearns one or several. A task may be learned again after its "U": it is
held again then, and what was measured of its being forgotten ends just before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clframe.errors import ClframeError
from clframe.evaluation.timeline import mean, mean_present

Request = tuple[str, int | Sequence[int]]  # ("L", 0), or ("U", (0, 2)) for two at once
Row = Sequence[float | None]
Chance = Sequence[float] | Sequence[Sequence[float]]  # [K], or [T][K] where requests change it

LEARNED_BY = 0.15  # a task that beats chance by less before its "U" was never there to forget
RETAINED_BY = 0.05  # a model whose held tasks beat chance by less forgot everything
LATE = 3  # further learn requests before relapse counts as late
_ROUNDING = 1e-9


class Span(NamedTuple):
    """What request `first` made of a task, until just before request `stop`: the task's next."""

    op: str
    task: int
    first: int
    stop: int


@dataclass(frozen=True)
class History:
    """Checked requests and accuracies: spans one a request and task, ops [T], accuracy and chance
    [T][K].
    """

    spans: tuple[Span, ...]
    ops: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    chance: tuple[tuple[float, ...], ...]

    def tasks(self, op: str, t: int) -> list[int]:
        """The tasks held ("L") or forgotten ("U") after request t, in order."""
        return sorted(s.task for s in self.spans if s.op == op and s.first <= t < s.stop)

    def changes(self, tasks: Sequence[int], t: int) -> list[float]:
        """a_{t,k} - a_{t-1,k}."""
        return [self.accuracy[t][k] - self.accuracy[t - 1][k] for k in tasks]


def read(requests: Sequence[Request], rows: Sequence[Row], chance: Chance) -> History:
    """Check and arrange: rows [T][up to K] hold None where a task is not seen yet, or end early.

    Raises ClframeError where a request cannot be served, or an accuracy of a seen task is missing.
    """
    made, levels = spans(requests), _levels(chance, len(requests))
    if len(rows) != len(requests):
        raise ClframeError(
            f"{len(requests)} requests but {len(rows)} rows; give one row of accuracies after each"
        )
    num = len(levels[0]) if levels else 0
    if made and max(s.task for s in made) >= num:
        raise ClframeError(f"requests name task {max(s.task for s in made)}; chance has {num}")
    table = []
    for t, row in enumerate(rows):
        cells = [math.nan if a is None else float(a) for a in row][:num]
        cells += [math.nan] * (num - len(cells))
        for k in {s.task for s in made if s.first <= t}:
            if not 0 <= cells[k] <= 1:
                raise ClframeError(
                    f"row {t} gives {cells[k]} for task {k}, which is seen by then; "
                    "expected a number from 0 to 1 (100% is 1.0)"
                )
        table.append(tuple(cells))
    return History(made, tuple(op for op, _ in requests), tuple(table), levels)


def _levels(chance: Chance, num: int) -> tuple[tuple[float, ...], ...]:
    """Chance after each of `num` requests."""
    given = [c if isinstance(c, Sequence) else (c,) for c in chance]
    changes = any(isinstance(c, Sequence) for c in chance)
    levels = [tuple(c) for c in given] if changes else [tuple(c for (c,) in given)] * num
    if len(levels) != num or len({len(row) for row in levels}) > 1:
        raise ClframeError(f"chance has {len(levels)} rows for {num} requests, or uneven ones")
    for row in levels:
        for k, c in enumerate(row):
            if not 0 <= c <= 1:
                raise ClframeError(f"chance of task {k} is {c!r}; expected a fraction such as 0.1")
    return tuple(levels)


def spans(requests: Sequence[Request]) -> tuple[Span, ...]:
    """One a request and task; ClframeError on "L" of a held task, or "U" of one not held."""
    made: list[Span] = []
    last: dict[int, int] = {}  # by task: the place of its latest span
    for t, (op, named) in enumerate(requests):
        for task in [named] if isinstance(named, int) else named:
            if op not in ("L", "U") or task < 0:
                raise ClframeError(
                    f"request {t} is {(op, task)!r}; expected ('L' or 'U', task >= 0)"
                )
            held = task in last and made[last[task]].op == "L"
            if held == (op == "L"):
                rule = (
                    "is held already; unlearn it first" if held else "is not held; learn it first"
                )
                raise ClframeError(f"request {t} is {op}{task}, but task {task} {rule}")
            if task in last:
                made[last[task]] = made[last[task]]._replace(stop=t)
            last[task] = len(made)
            made.append(Span(op, task, t, len(requests)))
    return tuple(made)


def mean_accuracy(line: History, op: str, t: int) -> float | None:
    """RA ("L") or FA ("U") [U]: over the tasks held or forgotten after request t; None if none."""
    return mean(line.accuracy[t][k] for k in line.tasks(op, t))


def spill(line: History, t: int) -> float | None:
    """Spill [U] of an unlearn request: sum of |a_{t,k} - a_{t-1,k}| over all other seen tasks."""
    if line.ops[t] != "U":
        return None
    others = {s.task for s in line.spans if s.first < t}
    others -= {s.task for s in line.spans if s.first == t}
    return math.fsum(map(abs, line.changes(sorted(others), t)))


def signed_spill(line: History, t: int) -> float | None:
    """Mean change of the held tasks by an unlearn request: negative is damage."""
    return mean(line.changes(line.tasks("L", t), t)) if line.ops[t] == "U" else None


def relapse(line: History, t: int) -> float | None:
    """Relapse (a) of a learn request: sum of |a_{t,f} - a_{t-1,f}| over what is forgotten then."""
    forgotten = line.tasks("U", t)
    if line.ops[t] != "L" or not forgotten:
        return None
    return math.fsum(map(abs, line.changes(forgotten, t)))


def end_relapse(line: History, span: Span) -> float | None:
    """Relapse (b): what accuracy gained from the end of the "U" to the end of its span."""
    return _gain(line, span, span.stop - 1, span.stop)


def peak_relapse(line: History, span: Span, until: int | None = None) -> float | None:
    """Relapse (c): the most it gained in between, before request `until` if given."""
    stop = span.stop if until is None else min(until, span.stop)
    return _gain(line, span, span.first + 1, stop)


def late_relapse(line: History, span: Span) -> float | None:
    """Relapse (c) from the third further learn request on; None where there are fewer."""
    learned = [t for t in range(span.first + 1, span.stop) if line.ops[t] == "L"]
    return _gain(line, span, learned[LATE - 1], span.stop) if len(learned) >= LATE else None


def forgetting(line: History) -> dict[int, float]:
    """max_t a_{t,k} - a_{T,k} of each held task, since it was last learned."""
    return {
        s.task: max(_course(line, s)) - _course(line, s)[-1]
        for s in line.spans
        if s.op == "L" and s.stop == len(line.ops)
    }


def loss_by(line: History, op: str) -> dict[int, float]:
    """The part of a_{first,k} - a_{T,k} of each held task that fell at later requests `op`.

    forgetting() counts damage by either kind of request. These two parts add up to the whole.
    """
    return {
        s.task: -math.fsum(
            line.changes([s.task], t)[0] for t in range(s.first + 1, s.stop) if line.ops[t] == op
        )
        for s in line.spans
        if s.op == "L" and s.stop == len(line.ops)
    }


def stability(line: History, span: Span) -> float | None:
    """Stability [U]: mean a_{t,k}/a_{first,k} if learned, mean c_k - a_{t,k} if forgotten.

    It ends just before the task's next request. UnCLe's code has 10 (%) for every chance c_k.
    """
    course = _course(line, span)
    if span.op == "U":
        return mean(line.chance[t][span.task] - a for t, a in enumerate(course, start=span.first))
    return mean(a / course[0] for a in course) if course[0] else None


def void(line: History, span: Span) -> list[str]:
    """Why the forget score of an unlearn request says nothing: no reason, one or two."""
    reasons = []
    before, c = (table[span.first - 1][span.task] for table in (line.accuracy, line.chance))
    if before < c + LEARNED_BY - _ROUNDING:
        reasons.append(f"accuracy before was {before:.3f}, under chance {c:.3f} + {LEARNED_BY}")
    end = len(line.ops) - 1
    kept, level = (
        mean_accuracy(line, "L", end),
        mean(line.chance[end][k] for k in line.tasks("L", end)),
    )
    if kept is not None and level is not None and kept <= level + RETAINED_BY + _ROUNDING:
        reasons.append(f"retain accuracy {kept:.3f} is within {RETAINED_BY} of chance {level:.3f}")
    return reasons


def summarize(requests: Sequence[Request], rows: Sequence[Row], chance: Chance) -> dict[str, Any]:
    """Section 2 of the report; Any because some values are lists. None is undefined everywhere.

    `forgets` has one entry an unlearned task, `stability` one a span, `rows` is the table.
    """
    line = read(requests, rows, chance)
    if not line.ops:
        raise ClframeError("there is no request; give at least one, such as ('L', 0)")
    times, end = range(len(line.ops)), len(line.ops) - 1
    held, last = line.tasks("L", end), line.accuracy[end]
    forgets = [_forget(line, s) for s in line.spans if s.op == "U"]
    now = [f for f in forgets if f["until"] is None]
    worst = min(held, key=lambda k: last[k]) if held else None
    lost = forgetting(line)
    per = {f.__name__: [f(line, t) for t in times] for f in (spill, signed_spill, relapse)}
    return {
        "held": held,
        "forgotten": line.tasks("U", end),
        "retain_accuracy": mean_accuracy(line, "L", end),
        "worst_held": None if worst is None else last[worst],
        "worst_held_task": worst,
        "forget_accuracy": mean_accuracy(line, "U", end),
        "forget_above_chance": mean(f["accuracy"] - f["chance"] for f in now),
        "forget_accuracy_valid": mean(f["accuracy"] for f in now if not f["void"]),
        **{name: mean_present(values) for name, values in per.items()},
        **{f"{name}_per_request": values for name, values in per.items()},
        **{
            name: mean_present(f[name] for f in forgets)
            for name in ("end_relapse", "peak_relapse", "late_relapse")
        },
        "forgets": forgets,
        "void": any(f["void"] for f in now),
        "forgetting": mean(lost.values()),
        "forgetting_per_task": lost,
        "lost_by_learning_per_task": loss_by(line, "L"),
        "lost_by_unlearning_per_task": loss_by(line, "U"),
        "stability": [stability(line, s) for s in line.spans],
        "rows": [_row(line, t) for t in times],
    }


def _forget(line: History, span: Span) -> dict[str, Any]:
    """One unlearn request; `until` is the request that learned the task again, if one did.

    `accuracy` and `chance` are those just before it, else at the end.
    """
    course = _course(line, span)
    return {
        "request": span.first,
        "task": span.task,
        "until": None if span.stop == len(line.ops) else span.stop,
        "chance": line.chance[span.stop - 1][span.task],
        "before": line.accuracy[span.first - 1][span.task],
        "after": course[0],
        "accuracy": course[-1],
        "end_relapse": end_relapse(line, span),
        "peak_relapse": peak_relapse(line, span),
        "late_relapse": late_relapse(line, span),
        "void": void(line, span),
    }


def _row(line: History, t: int) -> dict[str, Any]:
    """One request; the peak is the highest of all tasks ever forgotten by then."""
    peaks = [peak_relapse(line, s, t + 1) for s in line.spans if s.op == "U" and s.first < t]
    return {
        "request": t,
        "op": line.ops[t],
        "tasks": [s.task for s in line.spans if s.first == t],
        "retain_accuracy": mean_accuracy(line, "L", t),
        "forget_accuracy": mean_accuracy(line, "U", t),
        "signed_spill": signed_spill(line, t),
        "peak_relapse": max((p for p in peaks if p is not None), default=None),
    }


def _course(line: History, span: Span) -> list[float]:
    return [line.accuracy[t][span.task] for t in range(span.first, span.stop)]


def _gain(line: History, span: Span, start: int, stop: int) -> float | None:
    """The highest accuracy of requests start..stop-1 over that at the span's first, if later."""
    later = [line.accuracy[t][span.task] for t in range(max(start, span.first + 1), stop)]
    return max(later) - line.accuracy[span.first][span.task] if later else None
