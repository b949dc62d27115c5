"""Requests as they are written: the order of a stream, what it is told to forget, and when."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, TypeAdapter, model_validator

from clframe.config.part import Count, Part
from clframe.errors import ClframeError, nearest
from clframe.registry import conf_folders

WORD = re.compile(r"([LUF])(\d+)")
FEW = 4  # numbers that are written out in a title
FORM = 'Write "L0 L1 U0", or a list of {learn: 0} and {forget: {tasks: [0]}, data: false}'


class Forget(Part):
    """What to forget: whole tasks, classes, or single samples by uid; exactly one of them.

    `file` names a text file of uids, one a line (anything behind a comma or # is left alone), and
    is read at once: the run knows the uids, not the file.
    """

    tasks: list[Count] | None = None
    classes: list[Count] | None = None
    uids: list[Count] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "file" not in given:
            return given
        rest = {k: v for k, v in given.items() if k != "file"}
        if rest.get("uids") is not None:
            raise ValueError("expected uids or a file of them, not both")
        return rest | {"uids": uids_of(given["file"])}

    @model_validator(mode="after")
    def _one(self) -> Forget:
        given = [v for v in (self.tasks, self.classes, self.uids) if v is not None]
        if len(given) != 1 or not given[0]:
            raise ValueError("expected exactly one non-empty list: tasks, classes, uids or a file")
        return self

    @property
    def names(self) -> str:
        """Which of the three it is."""
        return next(k for k in ("tasks", "classes", "uids") if getattr(self, k) is not None)

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers, each once."""
        return tuple(dict.fromkeys(getattr(self, self.names)))


class Request(Part):
    """One entry of the stream's order: learn an experience, or forget something learned.

    `without` leaves samples out of what is learned, as if they had never been there (of tasks: all
    that the scenario's experience has, though it come with another one); `data` says
    whether the strategy may read what it is to forget (None: as `forget_data` says).
    """

    learn: Count | None = None
    without: list[Forget] = []
    forget: Forget | None = None
    data: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> Request:
        if (self.learn is None) == (self.forget is None):
            raise ValueError("expected either learn or forget")
        if self.learn is not None and self.data:
            raise ValueError("data belongs to a forget request; remove it here")
        if self.forget is not None and self.without:
            raise ValueError("without belongs to a learn request; remove it here")
        return self


def _spelled(value: Any) -> Any:
    """Text as it will be read: a name in conf/requests.yaml becomes its sequence."""
    if value is not None and not isinstance(value, str | list):
        raise ValueError(f"expected text or a list. {FORM}")
    if value is not None and not (value.split() if isinstance(value, str) else value):
        raise ValueError("expected at least one request; leave the key out to learn everything")
    if isinstance(value, list):
        return [_long(v) if isinstance(v, str) else v for v in value]
    if isinstance(value, str):
        if re.fullmatch(r"[a-z]\w*", value):
            value = _preset(value)
        for word in value.split():
            _long(word)
    return value


Requests = Annotated[str | list[Request] | None, BeforeValidator(_spelled)]


def read_requests(given: Any, *, data: bool = False) -> list[Request] | None:
    """Requests in their long form, each with `data` said. U0 and F0 forget task 0.

    Raises pydantic's ValidationError.
    """
    made = TypeAdapter[Any](Requests).validate_python(given)
    if isinstance(made, str):
        made = [Request(**_long(word)) for word in made.split()]
    return made and [_told(request, data) for request in made]


def _told(request: Request, data: bool) -> Request:
    hands_over = request.forget is not None and (data if request.data is None else request.data)
    return request.model_copy(update={"data": True if hands_over else None})


def _long(word: str) -> dict[str, Any]:
    match = WORD.fullmatch(word)
    if not match:
        raise ValueError(f"{word!r} is no request; write L0 to learn and U0 (or F0) to forget")
    number = int(match[2])
    return {"learn": number} if match[1] == "L" else {"forget": {"tasks": [number]}}


def _preset(name: str) -> str:
    known: dict[str, Any] = {}
    for folder in reversed(conf_folders()):
        if (folder / "requests.yaml").is_file():
            known |= yaml.safe_load((folder / "requests.yaml").read_text(encoding="utf-8")) or {}
    if name not in known:
        raise ValueError(
            f"{name!r} is no sequence in conf/requests.yaml.{nearest(name, known)} {FORM}"
        )
    return str(known[name])


def in_words(requests: Sequence[Mapping[str, Any]]) -> str:
    """Requests in the long form on one line: "L0 L1 U{classes 2} L2", for tables and titles.

    Of many numbers it has how many there are, and a few letters that tell them from others.
    """
    return " ".join(map(_in_words, requests))


def _in_words(request: Mapping[str, Any]) -> str:
    gone = request.get("forget")
    if gone is None:
        without = " ".join(_listed(w) for w in request.get("without") or [])
        return f"L{request.get('learn')}" + (f"{{without {without}}}" if without else "")
    data = "+data" * bool(request.get("data"))
    tasks = gone.get("tasks") or []
    return (f"U{tasks[0]}" if len(tasks) == 1 else f"U{{{_listed(gone)}}}") + data


def _listed(numbers: Mapping[str, Any]) -> str:
    kind, values = next((k, v) for k, v in numbers.items() if v)
    if len(values) <= FEW:
        return f"{kind} {','.join(map(str, values))}"
    letters = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:4]
    return f"{len(values)} {kind} #{letters}"


def uids_of(file: Any) -> list[int]:
    """The uids in a text file. Raises ValueError that names the line."""
    if not isinstance(file, str) or not Path(file).expanduser().is_file():
        raise ValueError(f"{file!r} is no file; give one with a uid a line")
    found = []
    for number, line in enumerate(Path(file).expanduser().read_text().splitlines(), 1):
        word = re.split(r"[,#]", line)[0].strip()
        if word and not word.isdigit():
            raise ValueError(f"{file}, line {number}: {word!r} is no uid; give one number a line")
        found += [int(word)] if word else []
    return found


def never_forgotten(requests: Sequence[Request]) -> list[Request]:
    """The same stream without a forget request: what unlearning is to be told from (M_o)."""
    learned: dict[int, Request] = {}
    for request in requests:
        if request.learn is not None:
            learned.setdefault(request.learn, request)  # a second time it would be held already
    return list(learned.values())


def never_learned(requests: Sequence[Request]) -> list[Request]:
    """The same stream as if all that is forgotten had never been there (M_r).

    Tasks forgotten are not learned, and every experience before the request is learned without
    their samples, or those of the classes or uids. Raises ClframeError where nothing is left.
    """
    made: list[Request] = []
    for request in requests:
        gone = request.forget
        if gone is None:
            made.append(request)
        else:
            without = [gone.model_copy(update={gone.names: sorted(gone.values)})]
            made = [
                r.model_copy(update={"without": [*r.without, *without]})
                for r in made
                if r.learn not in (gone.tasks or ())
            ]
    if not made:
        raise ClframeError("the requests forget everything; no model without it can be trained")
    return made
