"""One colour and one dash per method, the same in every figure of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np

from clframe.report.groups import Group, Method

# Okabe and Ito's colours without their yellow, then darker ones of Paul Tol's: apart from each
# other for the colour-blind too. Grey is kept for references.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#332288", "#882255", "#999933", "#44403C",
)  # fmt: skip
INK, GREY, FAINT, GRID = "#1F2937", "#6B7280", "#9CA3AF", "#E5E7EB"
LOST = "#B91C1C"  # forget requests
DASHES = ("solid", "dash", "dot", "dashdot")  # plotly's names
MATPLOTLIB_DASH = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


class Look(NamedTuple):
    """How one method is drawn."""

    color: str
    dash: str
    marker: str

    @property
    def line(self) -> str:
        """The dash in matplotlib's words."""
        return MATPLOTLIB_DASH[self.dash]


def looks(groups: Sequence[Group]) -> dict[str, Look]:
    """Method label -> look: colour by strategy; dash, then shade, by variant.

    Where a strategy has more variants than there are dashes, colours go by method.
    """
    methods: dict[Method, str | None] = {}
    for group in groups:
        methods.setdefault(group.method, group.reference)
    hues = {m: m.strategy for m, kind in methods.items() if kind is None}
    if max(Counter(hues.values()).values(), default=0) > len(DASHES):
        hues = {m: m.label for m in hues}
    order = list(dict.fromkeys(hues.values()))
    found, seen = {}, dict.fromkeys(order, 0)
    for method, kind in methods.items():
        if kind is not None:
            dash, marker = ("dash", "*") if kind == "joint" else ("dot", "P")
            found[method.label] = Look(GREY, dash, marker)
            continue
        place = order.index(hues[method])
        turn = place // len(PALETTE) + seen[hues[method]]
        seen[hues[method]] += 1
        found[method.label] = Look(
            _shade(PALETTE[place % len(PALETTE)], turn // len(DASHES)),
            DASHES[turn % len(DASHES)],
            MARKERS[place % len(MARKERS)],
        )
    return found


def _shade(color: str, turn: int) -> str:
    """The colour itself, then darker ones of its hue, once all dashes have been used."""
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part * 0.6**turn):02X}" for part in parts)


def rgba(color: str, alpha: float) -> str:
    """A see-through colour in plotly's words."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def sequence(count: int) -> list[str]:
    """Colours of experiences, from first (dark) to last (light, still legible on white)."""
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, max(count, 2)))
    return [matplotlib.colors.to_hex(c) for c in colors[:count]]
