"""What is shown of a grid's cells before it starts."""

from __future__ import annotations

from pathlib import Path

from clframe.config.grid import GridSpec
from clframe.grid.display import Planned, table

AXES = {"strategy": ["fine_tune", "replay"], "scenario": ["split_digits"], "seed": [0, 1]}


def test_settings_of_included_cells_are_shown_with_them() -> None:
    entry = {"axes": {"strategy": ["replay"], "options.replay.capacity": [5, 7]}, "epochs": 3}
    entry |= {"scenario": "split_digits", "optim": {"lr": 0.05}}  # the default: not said
    spec = GridSpec("g", axes=AXES, include=[entry])
    cells = [Planned(cfg, Path("."), "to run") for cfg in spec.cells()]
    assert table(cells, spec.axes, spec.included_keys()) == [
        "scenario      strategy   settings                    to run (seeds)",
        "split_digits  fine_tune  -                           0 1",
        "split_digits  replay     -                           0 1",
        "split_digits  replay     replay.capacity=5 epochs=3  0",
        "split_digits  replay     replay.capacity=7 epochs=3  0",
    ]


def test_an_included_cell_may_lack_an_axis() -> None:
    axes = AXES | {"strategy": ["replay"], "seed": [0], "options.replay.capacity": [5]}
    entry = {"strategy": "fine_tune", "scenario": "split_digits", "seed": 0}
    spec = GridSpec("g", axes=axes, include=[entry])
    cells = [Planned(cfg, Path("."), "to run") for cfg in spec.cells()]
    assert table(cells, spec.axes, spec.included_keys()) == [
        "scenario      strategy   options.replay.capacity  to run (seeds)",
        "split_digits  replay     5                        0",
        "split_digits  fine_tune  -                        0",
    ]
