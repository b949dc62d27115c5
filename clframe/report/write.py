"""Tables as files: CSV and JSON with every digit, Markdown as people read them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clframe.report.tables import Record, Table
from clframe.report.views import View


def write_csv(table: Table, path: Path) -> Path:
    """One line per record; an undefined value is an empty field."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(by_column(table)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return path


def write_json(tables: Mapping[str, Table], path: Path) -> Path:
    """All tables in one object; an undefined value is null, an infinite one is text."""
    finite = {name: [_finite(record) for record in table] for name, table in tables.items()}
    path.write_text(json.dumps(finite, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _finite(record: Record) -> Record:
    return {k: str(v) if v in (math.inf, -math.inf) else v for k, v in record.items()}


def write_markdown(title: str, lines: Iterable[str], views: Sequence[View], path: Path) -> Path:
    parts = [f"# {title}", "\n".join(f"- {line}" for line in lines)]
    parts += [markdown(view) for view in views]
    path.write_text("\n\n".join(parts) + "\n")
    return path


def markdown(view: View) -> str:
    """One table under its title, its note below."""
    rows = [view.head, ["---"] * len(view.head), *view.rows]
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join([f"## {view.title}", "", *lines, *(["", view.note] if view.note else [])])


def by_column(table: Table) -> dict[str, list[Any]]:
    """The same table as columns of equal length, None where a record has no such key."""
    names = list(dict.fromkeys(name for record in table for name in record))
    return {name: [record.get(name) for record in table] for name in names}


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
