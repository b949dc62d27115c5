"""The parity ledger says what its CSV says, and every row has the cells it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import parity
from clframe.config.identity import run_id

ROWS = parity.read()


def test_the_page_is_the_table() -> None:
    assert parity.PAGE.read_text().partition(parity.START)[2] == "\n" + parity.table(ROWS)


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda r: f"{r['strategy']}-{r['scenario']}-{r['setting']}"
)
def test_a_row_names_cells_that_differ_in_their_seed_alone(row: parity.Row) -> None:
    cells = parity.cells(row)
    facts = [cell.model_dump(exclude={"seed"}) for cell in cells]
    assert cells and all(f == facts[0] for f in facts)
    assert len({cell.seed for cell in cells}) == len(cells) >= int(row["n"] or 1)
    assert bool(row["ours"]) == bool(row["n"]) and (not row["published"] or row["source"])


def test_results_are_taken_over(tmp_path: Path) -> None:
    row = dict(next(r for r in ROWS if r["strategy"] == "pcr"))
    for cell, acc in zip(parity.cells(row), (0.5, 0.6, 0.7), strict=False):
        (tmp_path / run_id(cell)).mkdir()
        (tmp_path / run_id(cell) / "metrics.json").write_text(json.dumps({"acc_final": acc}))
    parity.measure(row, tmp_path)
    assert (row["ours"], row["half"], row["n"]) == ("60.00", "24.84", "3")  # t(2) = 4.303
    row["n"] = ""
    parity.measure(row, tmp_path / "nothing")
    assert row["n"] == ""
