"""Requests: the order in which a stream's experiences are learned, and what is forgotten when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clframe.core.experience import Experience, Samples, Stream
from clframe.errors import ConfigError, nearest

NAMES = ("tasks", "classes", "uids")
FORM = 'Write "L0 L1 F0", or a list of {learn: 0} and {forget: {tasks: [0]}, data: false}.'


@dataclass(frozen=True)
class _Request:
    """One request: `learn` an experience, or forget what `names` (tasks, classes, uids) names."""

    at: str
    learn: int | None
    names: str
    values: tuple[int, ...]
    data: bool


def splice(stream: Stream, requests: str | Sequence[Any] | None) -> Stream:
    """The stream that `requests` make of a scenario's; None leaves it as it is.

    L2 learns the scenario's experience 2, at most once. F2 forgets what was learned from it (task 2
    of a request's long form, whatever the setting); classes are named by label, samples by uid. A
    forget request carries the uids of all data that it withdraws, each once, and that data itself
    with `data: true`. A sample that came with several experiences is withdrawn from all of them;
    if it comes again later, it is learned anew. The request `forgets` each position of the stream
    of whose data nothing is left.
    """
    if requests is None:
        return stream
    words = requests.split() if isinstance(requests, str) else requests
    if not words:
        raise ConfigError(
            f"requests={requests!r}: nothing to do. {FORM} Leave it out to learn all."
        )
    made: list[Experience] = []
    held: dict[int, Tensor] = {}  # by position: which rows of its training data are still held
    for i, word in enumerate(words):
        request = _parse(f"requests[{i}]", word)
        if request.learn is not None:
            made.append(_learn(stream, made, request))
            held[i] = torch.ones(len(made[i].train), dtype=torch.bool)
        else:
            made.append(_forget(made, held, request))
    return replace(stream, experiences=tuple(made))


def _parse(at: str, word: Any) -> _Request:
    if isinstance(word, str):
        match = re.fullmatch(r"([LF])(\d+)", word.strip())
        if not match:
            raise ConfigError(f"{at}={word!r}: expected L or F and an experience's number. {FORM}")
        number = int(match[2])
        return (
            _Request(at, number, "", (), False)
            if match[1] == "L"
            else _Request(at, None, "tasks", (number,), False)
        )
    if not isinstance(word, Mapping):
        raise ConfigError(f"{at}={word!r}: expected a request. {FORM}")
    given = {k: v for k, v in word.items() if v is not None}
    _only(at, given, ("learn", "forget", "data"))
    data = given.pop("data", False)
    if not isinstance(data, bool) or len(given) != 1 or (data and "learn" in given):
        raise ConfigError(f"{at}={dict(word)}: expected learn, or forget with data. {FORM}")
    if "learn" in given:
        return _Request(at, _number(f"{at}.learn", given["learn"]), "", (), False)
    return _Request(at, None, *_named(f"{at}.forget", given["forget"]), data)


def _named(at: str, what: Any) -> tuple[str, tuple[int, ...]]:
    if not isinstance(what, Mapping):
        raise ConfigError(f"{at}={what!r}: expected tasks, classes or uids. {FORM}")
    given = {k: v for k, v in what.items() if v is not None}
    _only(at, given, NAMES)
    if len(given) != 1:
        raise ConfigError(f"{at}={dict(what)}: expected one of {', '.join(NAMES)}. {FORM}")
    ((name, value),) = given.items()
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ConfigError(f"{at}.{name}=[]: names nothing to forget. {FORM}")
    return name, tuple(dict.fromkeys(_number(f"{at}.{name}", v) for v in values))


def _only(at: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{at}.{key} is not a key.{nearest(str(key), known)} Known: {', '.join(known)}."
            )


def _number(at: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{at}={value!r}: expected a number from 0 on.")
    return value


def _learn(stream: Stream, made: Sequence[Experience], request: _Request) -> Experience:
    number, known = request.learn, {e.origin: e for e in stream.learned}
    done = {e.origin for e in made if e.kind == "learn"}
    if number not in known:
        raise ConfigError(
            f"{request.at}: experience {number} to learn does not exist; scenario "
            f"{stream.name!r} has {_list(known)}. Did you mean {_closest(number or 0, known)}?"
        )
    if number in done:
        left = sorted(set(known) - done)
        hint = f"Still to learn: {_list(left)}." if left else "All have been learned."
        raise ConfigError(f"{request.at}: experience {number} was learned before. {hint}")
    return replace(known[number], index=len(made))


def _forget(made: Sequence[Experience], held: dict[int, Tensor], request: _Request) -> Experience:
    column = {i: _column(made[i], request.names) for i in held}
    _all_held(column, held, request)
    wanted = torch.tensor(request.values)
    named = [made[i].train.uid[torch.isin(column[i], wanted) & rows] for i, rows in held.items()]
    uids = torch.cat(named)  # of samples that may also have come with experiences not named
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
    )


def _times(uids: Tensor, every: Tensor) -> tuple[int, ...]:
    """How often each of `uids` is in `every`."""
    found, counts = every.unique(return_counts=True)
    return tuple(counts[torch.searchsorted(found, uids)].tolist())


def _emptied(made: Sequence[Experience], held: dict[int, Tensor], gone: Samples) -> tuple[int, ...]:
    """The classes among `gone` of which no experience has a sample left."""
    left = {c for i, rows in held.items() for c in made[i].train.y[rows].unique().tolist()}
    return tuple(c for c in gone.y.unique().tolist() if c not in left)


def _column(exp: Experience, names: str) -> Tensor:
    """What a forget request may name each training sample of `exp` by."""
    if names == "tasks":  # those of the scenario, whether or not its setting shows them
        return torch.full_like(exp.train.y, exp.origin)
    return exp.train.y if names == "classes" else exp.train.uid


def _all_held(column: dict[int, Tensor], held: dict[int, Tensor], request: _Request) -> None:
    learned = {v for values in column.values() for v in values.unique().tolist()}
    left = {v for i, values in column.items() for v in values[held[i]].unique().tolist()}
    for value in request.values:
        if value not in left:
            what = "was forgotten before" if value in learned else "has not been learned by then"
            raise ConfigError(
                f"{request.at}: {request.names} {value} {what}. "
                + (f"What can be forgotten there: {_list(left)}." if left else "Learn first.")
                + (f" Did you mean {_closest(value, left)}?" if left else "")
            )


def _closest(given: int, known: Iterable[int]) -> int:
    return min(known, key=lambda k: (abs(k - given), k))


def _list(numbers: Iterable[int]) -> str:
    some = sorted(numbers)
    shown = some if len(some) <= 20 else [*some[:10], "...", some[-1]]
    return ", ".join(map(str, shown))
