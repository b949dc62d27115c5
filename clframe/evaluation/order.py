"""What the order of a stream says: what is held at its end, and what its requests are called.

Rows are those of `Stream.order`, as a run's record has them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
PART = " part"  # what the name of a request ends with that leaves something of what it touches


def withdrawn(rows: Iterable[Row]) -> dict[int, int]:
    """Position of each experience of which nothing is left -> that of the request that took it."""
    return {p: row["index"] for row in rows for p in row.get("forgets", ())}


def retained(rows: Sequence[Row]) -> list[int]:
    """Positions of the experiences that no request has withdrawn."""
    gone = withdrawn(rows)
    return [r["index"] for r in rows if r.get("kind") != "forget" and r["index"] not in gone]


def called(op: str, numbers: Iterable[int], part: bool = False) -> str:
    """A request's name: "L" or "U", then the scenario's experiences that it is about.

    part: it takes only some of their samples.
    """
    return op + ",".join(map(str, sorted(numbers))) + PART * part


def names(rows: Sequence[Row]) -> dict[int, str]:
    """The name of each request by its position; of samples or classes, after where they were."""
    origin = {row["index"]: row.get("origin", row["index"]) for row in rows}
    found = {}
    for i, row in zip(origin, rows, strict=True):
        whole = {origin[p] for p in row.get("forgets", ())}
        touched = set(row.get("touches") or whole)
        if row.get("kind") == "forget":
            found[i] = called("U", touched, part=not touched <= whole)
        else:
            found[i] = called("L", [origin[i]])
    return found
