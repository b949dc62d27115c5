"""The stability gap itself: how deep old tasks fall at a switch, how long, and who recovers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from clframe.evaluation.timeline import Floats, Ints, Timeline, mean, mean_present

LEVELS = (0.9, 0.95, 1.0)
_TOLERANCE = 1e-12
_AVERAGED = ("depth", "depth_rel", "regain", "area", "area_norm", "time_to_min")


def gap(line: Timeline, requests: Collection[int]) -> dict[str, Any] | None:
    """Each old task's dip at each switch, and means over them; None where there is none.

    A forget request, at one of the stream positions `requests`, is no switch.
    """
    places = line.stages.tolist()
    switches = [s for s in range(line.num_stages - 1) if places[s + 1] not in requests]
    if not switches:
        return None
    by_switch = [_dips(line, s) for s in switches]
    dips = [dip for old in by_switch for dip in old]
    recent = [old[-1] for old in by_switch]
    old = line.experiences
    pairs = ((places[s], places[s + 1], i) for s in switches for i in old[: line.seen[s]])
    names = (f"{before}->{after}|{i}" for before, after, i in pairs)
    block: dict[str, Any] = {"pairs": dict(zip(names, dips, strict=True))}
    for name in _AVERAGED:
        block[f"{name}_mean"] = mean(dip[name] for dip in dips)
        block[f"{name}_recent_mean"] = mean(dip[name] for dip in recent)
    block["depth_by_transition"] = [mean(dip["depth"] for dip in old) for old in by_switch]
    return block | _recovery(dip["recovery_time"] for dip in dips)


def _dips(line: Timeline, s: int) -> list[dict[str, Any]]:
    """What stage s+1 does to each task learnt by then; `refs` are their accuracies just before."""
    old, window = slice(line.seen[s]), slice(line.starts[s + 1], line.stops[s + 1])
    curves, times = line.accuracy[old, window], line.iterations[window]
    switch, refs = line.boundaries[s], line.accuracy[old, line.stops[s] - 1]
    lowest = curves.argmin(1)
    lows = curves[np.arange(len(curves)), lowest]
    falls = np.maximum(0.0, refs[:, None] - curves) * np.diff(times, prepend=switch)
    columns = {
        "depth": (refs - lows).tolist(),
        "depth_rel": [
            (r - low) / r if r else None
            for r, low in zip(refs.tolist(), lows.tolist(), strict=True)
        ],
        "time_to_min": (times[lowest] - switch).tolist(),
        "regain": (curves[:, -1] - lows).tolist(),
        "area": falls.sum(1).tolist(),
        "area_norm": (falls.sum(1) / (times[-1] - switch)).tolist(),
    }
    by_level = [_recovered(curves, lowest, times - switch, level * refs) for level in LEVELS]
    levels = [str(level) for level in LEVELS]
    recovery = [dict(zip(levels, found, strict=True)) for found in zip(*by_level, strict=True)]
    rows = zip(*columns.values(), recovery, strict=True)
    return [dict(zip((*columns, "recovery_time"), row, strict=True)) for row in rows]


def _recovered(curves: Floats, lowest: Ints, since: Ints, wanted: Floats) -> list[int | None]:
    """Updates `since` the switch until each curve, once at its lowest, is as high as `wanted`."""
    places = np.arange(curves.shape[1])
    enough = (curves >= wanted[:, None] - _TOLERANCE) & (places >= lowest[:, None])
    first = enough.argmax(1)
    found = np.take_along_axis(enough, first[:, None], 1)[:, 0].tolist()
    taken = np.where(first == lowest, 0, since[first]).tolist()
    return [t if there else None for t, there in zip(taken, found, strict=True)]


def _recovery(times: Iterable[dict[str, int | None]]) -> dict[str, Any]:
    """How many dips close, and how fast those that do."""
    by_dip = list(times)
    by_level = {key: [times[key] for times in by_dip] for key in map(str, LEVELS)}
    return {
        "recovered_fraction": {
            key: sum(v is not None for v in values) / len(values)
            for key, values in by_level.items()
        },
        "recovery_time_mean": {key: mean_present(values) for key, values in by_level.items()},
    }
