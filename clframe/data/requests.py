"""Requests make a stream of a scenario's: what is learned when, and what is forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clframe.config.requests import Forget, Request
from clframe.core.experience import Experience, Samples, Stream
from clframe.errors import ConfigError


def splice(stream: Stream, requests: Sequence[Request] | None) -> Stream:
    """The stream that `requests` make of a scenario's; None leaves it as it is.

    An experience is learned once, and again only when all of it has been forgotten. Forgetting task
    2 withdraws what was learned from the scenario's experience 2, whatever the setting; classes are
    named by label, samples by uid. A forget request carries the uids of all data that it withdraws,
    each once, and that data itself with `data: true`. A sample that came with several experiences
    is withdrawn from all of them; if it comes again later, it is learned anew. The request
    `forgets` each position of the stream of whose data nothing is left. An experience learned
    `without` all that it has is left out. Raises ConfigError at what cannot be.
    """
    if requests is None:
        return stream
    made: list[Experience] = []
    held: dict[int, Tensor] = {}  # by position: which rows of its training data are still held
    for i, request in enumerate(requests):
        if request.forget is not None:
            made.append(_forget(stream, made, held, request, f"requests[{i}]"))
            continue
        learned = _learn(stream, made, held, request, f"requests[{i}]")
        if len(learned.train):
            held[len(made)] = torch.ones(len(learned.train), dtype=torch.bool)
            made.append(learned)
    if not made:
        raise ConfigError("requests: every experience is learned without anything.")
    return replace(stream, experiences=tuple(made))


def _learn(
    stream: Stream, made: Sequence[Experience], held: dict[int, Tensor], request: Request, at: str
) -> Experience:
    number, known = request.learn, {e.origin: e for e in stream.learned}
    done = {made[i].origin for i, rows in held.items() if rows.any()}
    if number not in known:
        raise ConfigError(
            f"{at}: experience {number} to learn does not exist; scenario "
            f"{stream.name!r} has {_list(known)}. Did you mean {_closest(number or 0, known)}?"
        )
    if number in done:
        left = sorted(set(known) - done)
        hint = f"Still to learn: {_list(left)}." if left else "All have been learned."
        raise ConfigError(f"{at}: experience {number} was learned before. {hint}")
    exp = known[number]
    for named in request.without:
        if named.names == "tasks":
            others = [known[k].train.uid for k in named.values if k in known]
            keep = ~torch.isin(exp.train.uid, torch.cat(others or [exp.train.uid[:0]]))
        else:
            keep = ~torch.isin(_column(exp, named.names), torch.tensor(named.values))
        train = Samples(*exp.train.take(keep.nonzero().flatten()))
        exp = replace(exp, train=train, classes=tuple(train.y.unique().tolist()))
    return replace(exp, index=len(made))


def _forget(
    stream: Stream, made: Sequence[Experience], held: dict[int, Tensor], request: Request, at: str
) -> Experience:
    named = request.forget
    assert named is not None
    column = {i: _column(made[i], named.names) for i in held}
    _check_held(stream, column, held, named, at)
    wanted = torch.tensor(named.values)
    found = [made[i].train.uid[torch.isin(column[i], wanted) & rows] for i, rows in held.items()]
    uids = torch.cat(found)  # of samples that may also have come with experiences not named
    gone = {i: torch.isin(made[i].train.uid, uids) & rows for i, rows in held.items()}
    gone = {i: rows for i, rows in gone.items() if rows.any()}
    held.update({i: held[i] & ~rows for i, rows in gone.items()})
    parts = [Samples(*made[i].train.take(rows.nonzero().flatten())) for i, rows in gone.items()]
    samples = Samples.cat(parts).once()
    nothing = Samples(*samples.take(torch.empty(0, dtype=torch.long)))
    return Experience(
        index=len(made),
        kind="forget",
        tasks=tuple(samples.task.unique().tolist()),
        classes=tuple(samples.y.unique().tolist()),
        train=samples if request.data else nothing,
        eval=nothing,
        origin=made[min(gone)].origin,
        forgets=tuple(i for i in gone if not held[i].any()),
        uids=tuple(samples.uid.tolist()),
        times=_times(samples.uid, torch.cat([p.uid for p in parts])),
        emptied=_emptied(made, held, samples),
        touches=_touches(made, gone, named),
    )


def _times(uids: Tensor, every: Tensor) -> tuple[int, ...]:
    """How often each of `uids` is in `every`."""
    found, counts = every.unique(return_counts=True)
    return tuple(counts[torch.searchsorted(found, uids)].tolist())


def _emptied(made: Sequence[Experience], held: dict[int, Tensor], gone: Samples) -> tuple[int, ...]:
    """The classes among `gone` of which no experience has a sample left."""
    left = {c for i, rows in held.items() for c in made[i].train.y[rows].unique().tolist()}
    return tuple(c for c in gone.y.unique().tolist() if c not in left)


def _touches(made: Sequence[Experience], gone: dict[int, Tensor], named: Forget) -> tuple[int, ...]:
    """The scenario's experiences that a request is about."""
    if named.names == "tasks":
        return tuple(sorted(named.values))
    last = {u: i for i, rows in gone.items() for u in made[i].train.uid[rows].tolist()}
    return tuple(sorted({made[i].origin for i in last.values()}))


def _column(exp: Experience, names: str) -> Tensor:
    """What a forget request may name each training sample of `exp` by."""
    if names == "tasks":  # those of the scenario, whether or not its setting shows them
        return torch.full_like(exp.train.y, exp.origin)
    return exp.train.y if names == "classes" else exp.train.uid


def _check_held(
    stream: Stream, column: dict[int, Tensor], held: dict[int, Tensor], named: Forget, at: str
) -> None:
    """Raise ConfigError where what is `named` is not held."""
    left = _values(values[held[i]] for i, values in column.items())
    missing = [v for v in named.values if v not in left]
    if not missing:
        return
    learned, every = _values(column.values()), _values(_column(e, named.names) for e in stream)
    later = every - learned
    told = {
        "forgotten before": [v for v in missing if v in learned],
        "not learned by then": [v for v in missing if v in later],
        "nowhere in the scenario": [v for v in missing if v not in every],
    }
    reasons = "; ".join(f"{named.names} {_list(v)}: {why}" for why, v in told.items() if v)
    can = f"What can be forgotten there: {_list(left)}." if left else "Learn first."
    near = f" Did you mean {_closest(missing[0], left)}?" if left and named.names != "uids" else ""
    raise ConfigError(f"{at}: {reasons}. {can}{near}")


def _values(columns: Iterable[Tensor]) -> set[int]:
    return {v for column in columns for v in column.unique().tolist()}


def _closest(given: int, known: Iterable[int]) -> int:
    return min(known, key=lambda k: (abs(k - given), k))


def _list(numbers: Iterable[int]) -> str:
    some = sorted(numbers)
    shown = some if len(some) <= 20 else [*some[:10], "...", some[-1]]
    return ", ".join(map(str, shown))
