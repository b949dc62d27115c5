"""Short runs whose numbers must not move: a change here is a change of results, and needs a reason.

The counts are exact on one kind of CPU; another may round differently, so a few samples of
tolerance are allowed, and no more.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clframe.engine.run import run_cell
from tests.conftest import MakeCell

PINNED = Path(__file__).with_name("counts.json")
WORDS = ("epochs=3", "optim.lr=0.2", "net.args.hidden=64")
EVERY = 12  # iterations between pinned rows
TOLERANCE = 2  # samples of 30


def counts(make_cell: MakeCell, strategy: str) -> list[list[int]]:
    """[iteration, experience, correct] of every 12th update and of the last.

    A net that is named has its own size.
    """
    words = WORDS[:-1] if "net.name=" in strategy else WORDS
    store = make_cell(*words, *f"strategy={strategy}".split())
    assert run_cell(store.folder) == 0
    rows = store.read_trace(store.read_record().primary).to_pylist()
    last = rows[-1]["iteration"]
    rows = [r for r in rows if r["iteration"] % EVERY == 0 or r["iteration"] == last]
    return [[r["iteration"], r["eval_experience"], r["correct"]] for r in rows]


@pytest.mark.parametrize("strategy", sorted(json.loads(PINNED.read_text())))
def test_counts_have_not_moved(make_cell: MakeCell, strategy: str) -> None:
    found = counts(make_cell, strategy)
    pinned = json.loads(PINNED.read_text())[strategy]
    assert [f[:2] for f in found] == [p[:2] for p in pinned]
    for (*where, count), (*_, expected) in zip(found, pinned, strict=True):
        assert abs(count - expected) <= TOLERANCE, where
