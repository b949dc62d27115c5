"""The lifelong-learning metrics again, plainly and slowly from their definitions."""

from __future__ import annotations

from typing import Any

from slow_metrics import Trace, average, average_skipping


def transfer(p: Any, q: Any) -> dict[str, Any]:
    if p is None or q is None:
        return {"ratio": None, "contrast": None}
    return {
        "ratio": None if p == 0 else q / p,
        "contrast": None if q + p == 0 else (q - p) / (q + p),
    }


def smoothed(curve: list[float]) -> list[float]:
    """Position j averages `width` values from j - width//2 (one earlier if odd), ends mirrored."""
    n = len(curve)
    width = min(int(n / 5), 100)
    if width < 3:
        return curve

    def mirrored(j: int) -> float:
        if j < 0:
            return curve[-j]
        return curve[j] if j < n else curve[2 * (n - 1) - j]

    start = -(width // 2) - (width % 2)
    return [sum(mirrored(j + start + s) for s in range(width)) / width for j in range(n)]


def saturation(curve: list[float]) -> tuple[float, int]:
    smooth = smoothed(curve)
    top = max(smooth)
    return top, next(n for n, value in enumerate(smooth) if value >= top - 1e-12)


def sample_efficiency(agent: list[float], expert: list[float]) -> Any:
    if not expert:
        return None
    (s, n), (s_star, n_star) = saturation(agent), saturation(expert)
    if n == 0 or n_star == 0:
        return None
    centre = (len(agent) - 1) / 2
    slope = sum((x - centre) * y for x, y in enumerate(agent))
    slope /= sum((x - centre) ** 2 for x in range(len(agent)))
    if s < 0.2 * s_star - 1e-12 or slope < -1e-12:
        return 0.0
    return (s / s_star) * (n_star / n)


def relative_performance(agent: list[float], expert: list[float]) -> Any:
    shared = min(len(agent), len(expert))
    return sum(agent[:shared]) / sum(expert[:shared]) if sum(expert[:shared]) else None


def lifelong(rows: Any, *, expert: Any = None) -> dict[str, Any]:
    """`expert`: a list of curves for each experience, perhaps empty, or None for none at all."""
    x = Trace(rows)
    K = len(x.kept)
    pm = [average([x.R(k, i) - x.R(i, i) for k in range(i + 1, K)]) for i in range(K - 1)]

    def before(k: int, j: int) -> Any:
        return x.z(j) if k == 0 else x.R(k - 1, j)

    pairs = [(k, j) for k in range(K) for j in range(K)]
    moves = {(k, j): transfer(before(k, j), x.R(k, j)) for k, j in pairs}
    ft = {f"{k}->{j}": moves[k, j] for k, j in pairs if j > k}
    bt = {f"{k}->{j}": moves[k, j] for k, j in pairs if j < k}
    out: dict[str, Any] = {"pm_per_task": pm, "pm": average(pm), "ft": ft, "bt": bt}
    for name, moved in (("ft", ft), ("bt", bt)):
        for form in ("ratio", "contrast"):
            out[f"{name}_{form}_mean"] = average_skipping([m[form] for m in moved.values()])
    if expert is not None:
        agent = [[x.A(i, t) for t in x.T[i]] for i in range(K)]
        for name, metric in (("rp", relative_performance), ("se", sample_efficiency)):
            out[name + "_per_task"] = [
                average([metric(agent[i], curve) for curve in expert[i]]) for i in range(K)
            ]
            out[name] = average_skipping(out[name + "_per_task"])
    return out
