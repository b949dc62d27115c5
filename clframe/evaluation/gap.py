"""The stability gap itself: how deep old tasks fall at a switch, how long, and who recovers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from clframe.evaluation.timeline import Timeline, mean, mean_present

LEVELS = (0.9, 0.95, 1.0)
_TOLERANCE = 1e-12
_AVERAGED = ("depth", "depth_rel", "regain", "area", "area_norm", "time_to_min")


def gap(line: Timeline) -> dict[str, Any] | None:
    """Each old task's dip at each switch, and means over them; None for a single experience."""
    num = line.num_experiences
    if num == 1:
        return None
    dips = {(k, i): _dip(line, k, i) for k in range(num - 1) for i in range(k + 1)}
    recent = [dips[k, k] for k in range(num - 1)]
    block: dict[str, Any] = {"pairs": {f"{k}->{k + 1}|{i}": dip for (k, i), dip in dips.items()}}
    for name in _AVERAGED:
        block[f"{name}_mean"] = mean(dip[name] for dip in dips.values())
        block[f"{name}_recent_mean"] = mean(dip[name] for dip in recent)
    block["depth_by_transition"] = [
        mean(dips[k, i]["depth"] for i in range(k + 1)) for k in range(num - 1)
    ]
    return block | _recovery(dip["recovery_time"] for dip in dips.values())


def _dip(line: Timeline, k: int, i: int) -> dict[str, Any]:
    """What learning k+1 does to task i: `ref` is its accuracy just before."""
    window = slice(line.starts[k + 1], line.stops[k + 1])
    curve, times = line.accuracy[i, window], line.iterations[window]
    switch, ref = int(line.boundaries[k]), float(line.accuracy[i, line.stops[k] - 1])
    lowest = int(np.argmin(curve))
    low = float(curve[lowest])
    area = float(np.sum(np.maximum(0.0, ref - curve) * np.diff(times, prepend=switch)))

    def recovery(level: float) -> int | None:
        enough = curve >= level * ref - _TOLERANCE
        if enough[lowest]:
            return 0
        later = np.flatnonzero(enough[lowest:])
        return int(times[lowest + later[0]]) - switch if len(later) else None

    return {
        "depth": ref - low,
        "depth_rel": (ref - low) / ref if ref else None,
        "time_to_min": int(times[lowest]) - switch,
        "regain": float(curve[-1]) - low,
        "area": area,
        "area_norm": area / (int(times[-1]) - switch),
        "recovery_time": {str(level): recovery(level) for level in LEVELS},
    }


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
