"""What is written under figures and tables, in one place so that both forms say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from clframe.report.scene import Scene

BAR_TITLES = {
    "depth": "gap depth, all",
    "depth_recent": "gap depth, recent",
    "min_acc": "min-ACC",
    "recovered": "recovered to 0.95",
    "recovery": "recovery time (of those)",
}
VIEW_TITLES = {
    "experiences": "Accuracy on each experience",
    "overlay": "All methods, and each switch close up",
    "matrix": "Accuracy matrix R",
    "gap": "Gap depth and recovery",
    "relapse": "What was to be forgotten, since its request",
}
BAR_NOTE = (
    "Bar: mean over seeds. Black line: its 95% t interval, cut at the edge of the panel. "
    "Dots: seeds. “none”: undefined in every seed, as a recovery time is where nothing recovers."
)

OVERLAY_NOTE = (
    " The mean over earlier experiences starts anew at each switch: there it takes in one more."
)
AGAIN_NOTE = " A panel ends where its experience is learned again."


def note_of(view: str, scene: Scene) -> str:
    """What a reader of one view has to know."""
    if view == "gap":
        return BAR_NOTE
    if view == "matrix":
        return matrix_note(scene)
    note = band_note(scene)
    if view == "overlay":
        note += OVERLAY_NOTE + bound_note(scene)
    if view == "relapse" and any(panel.last < scene.axis.edges[-1] for panel in scene.relapses):
        note += AGAIN_NOTE
    return note


def band_note(scene: Scene) -> str:
    """What line, band and verticals are."""
    what = "the experience being learned"
    if any(name.startswith("U") for name in scene.stages.values()):
        what = "what is learned (L) or forgotten (U, red), by the scenario's number"
    parts = [
        f"Line: mean over {scene.seeds} seeds; band: lowest to highest seed. "
        f"Dashed verticals: switches; above: {what}. "
        "Thinned by envelope, so that every dip is drawn."
    ]
    if not scene.axis.exact:
        parts.append(
            "Runs differ in length: they are aligned at the switches, "
            "each experience as long as its longest run."
        )
    return " ".join(parts)


def bound_note(scene: Scene) -> str:
    """What the grey marks are, where there are any."""
    if not scene.bounds:
        return ""
    return " Grey: reference strategies at the boundaries, on the full split."


def matrix_note(scene: Scene) -> str:
    """What the numbers of R are."""
    note = f"Mean over {scene.seeds} seeds, full {scene.full_split} split. "
    if not all(heat.even for heat in scene.heats.values()):
        note += "Streams differ by seed: each number is over the seeds that have it. "
    note += "In bold: the experience just learned"
    tables = [heat.table for heat in scene.heats.values()]
    ahead = any((~np.isnan(t))[np.triu_indices_from(t, 1)].any() for t in tables)
    return note + ("; right of it: experiences to come." if ahead else ".")
