"""The metrics again, plainly and slowly from their definitions, to check the fast ones against."""

from __future__ import annotations

import math
from typing import Any


def average(members: list[Any]) -> Any:
    """Undefined when empty or when one member is."""
    if not members or any(m is None for m in members):
        return None
    return sum(members) / len(members)


def average_skipping(members: list[Any]) -> Any:
    return average([m for m in members if m is not None])


class Trace:
    """A_i(t) as a function, e(t), T_k and b_k."""

    def __init__(self, rows: Any) -> None:
        self.values = {(int(t), int(i)): float(a) for t, _, i, a in rows}
        self.e = {int(t): int(e) for t, e, _, _ in rows}
        self.times = sorted(t for t in self.e if t >= 1)
        self.K = max(self.e.values()) + 1
        self.T = [[t for t in self.times if self.e[t] == k] for k in range(self.K)]
        self.b = [max(times) for times in self.T]

    def A(self, i: int, t: int) -> Any:
        return self.values.get((t, i))

    def R(self, k: int, i: int) -> Any:
        return self.A(i, self.b[k])

    def z(self, i: int) -> Any:
        return self.A(i, 0)

    def seen_series(self, i: int) -> list[float]:
        times = [t for t in self.times if self.e[t] >= i]
        if i == 0 and self.A(0, 0) is not None:
            times = [0, *times]
        return [self.A(i, t) for t in times]


def minus(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a - b


def differences(got: Any, want: Any, at: str = "") -> list[str]:
    """Where two nested results differ in key, length, type or, by more than 1e-9, in value."""
    if isinstance(want, dict):
        if not isinstance(got, dict) or set(got) != set(want):
            return [f"{at}: keys {got if not isinstance(got, dict) else set(got) ^ set(want)}"]
        return [d for key in want for d in differences(got[key], want[key], f"{at}/{key}")]
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return [f"{at}: {got!r} is not like {want!r}"]
        return [
            d
            for n, pair in enumerate(zip(got, want, strict=True))
            for d in differences(*pair, f"{at}[{n}]")
        ]
    if want is None or got is None:
        same = want is got
    else:
        numbers = type(got) in (int, float)
        same = numbers and math.isclose(got, want, rel_tol=0, abs_tol=1e-9)
    return [] if same else [f"{at}: got {got!r}, expected {want!r}"]


# --- Part A -----------------------------------------------------------------------------------


def lowest_after(x: Trace, i: int, t: int) -> Any:
    return min(x.A(i, n) for n in x.times if n <= t and x.e[n] > i)


def min_acc(x: Trace, t: int) -> Any:
    return average([lowest_after(x, i, t) for i in range(x.e[t])])


def wc_acc(x: Trace, t: int) -> Any:
    k = x.e[t]
    if k == 0:
        return x.A(0, t)
    return x.A(k, t) / (k + 1) + (1 - 1 / (k + 1)) * min_acc(x, t)


def seen_mean(x: Trace, t: int) -> Any:
    return average([x.A(i, t) for i in range(x.e[t] + 1)])


def falls(series: list[float], w: int) -> float:
    n = range(len(series))
    return max([0.0] + [series[p] - series[q] for p in n for q in n if p < q <= p + w - 1])


def rises(series: list[float], w: int) -> float:
    n = range(len(series))
    return max([0.0] + [series[q] - series[p] for p in n for q in n if p < q <= p + w - 1])


def lca_agem(x: Trace, beta: int) -> Any:
    cells = []
    for k in range(x.K):
        s = 0 if k == 0 else x.b[k - 1]
        for b in range(beta + 1):
            t = s + b
            inside = b == 0 or x.e.get(t) == k
            cells.append(x.A(k, t) if inside else None)
    return average(cells)


def lca_first_evals(x: Trace, beta: int) -> Any:
    means = []
    for i in range(x.K):
        own = [x.A(i, t) for t in x.T[i]]
        if i == 0 and x.A(0, 0) is not None:
            own = [x.A(0, 0), *own]
        if len(own) >= beta:
            means.append(average(own[:beta]))
    return average(means)


def dip(x: Trace, k: int, i: int) -> dict[str, Any]:
    window = x.T[k + 1]
    ref = x.A(i, x.b[k])
    low = min(x.A(i, t) for t in window)
    t_low = next(t for t in window if x.A(i, t) == low)
    area, before = 0.0, x.b[k]
    for t in window:
        area += max(0.0, ref - x.A(i, t)) * (t - before)
        before = t
    recovery: dict[str, Any] = {}
    for level in ("0.9", "0.95", "1.0"):
        target = float(level) * ref - 1e-12
        if low >= target:
            recovery[level] = 0
        else:
            after = [t for t in window if t >= t_low and x.A(i, t) >= target]
            recovery[level] = after[0] - x.b[k] if after else None
    return {
        "depth": ref - low,
        "depth_rel": None if ref == 0 else (ref - low) / ref,
        "time_to_min": t_low - x.b[k],
        "regain": x.A(i, window[-1]) - low,
        "area": area,
        "area_norm": area / (window[-1] - x.b[k]),
        "recovery_time": recovery,
    }


def gap(x: Trace) -> Any:
    if x.K == 1:
        return None
    pairs = [(k, i) for k in range(x.K - 1) for i in range(k + 1)]
    dips = {pair: dip(x, *pair) for pair in pairs}
    out: dict[str, Any] = {"pairs": {f"{k}->{k + 1}|{i}": dips[k, i] for k, i in pairs}}
    for name in ("depth", "depth_rel", "regain", "area", "area_norm", "time_to_min"):
        out[name + "_mean"] = average([dips[p][name] for p in pairs])
        out[name + "_recent_mean"] = average([dips[k, i][name] for k, i in pairs if k == i])
    out["depth_by_transition"] = [
        average([dips[k, i]["depth"] for i in range(k + 1)]) for k in range(x.K - 1)
    ]
    out["recovered_fraction"], out["recovery_time_mean"] = {}, {}
    for level in ("0.9", "0.95", "1.0"):
        times = [dips[p]["recovery_time"][level] for p in pairs]
        recovered = [t for t in times if t is not None]
        out["recovered_fraction"][level] = len(recovered) / len(times)
        out["recovery_time_mean"][level] = average(recovered)
    return out


def part_a(x: Trace, windows: Any, betas: Any) -> dict[str, Any]:
    tasks = range(x.K)
    acc = [average([x.R(k, i) for i in range(k + 1)]) for k in tasks]
    forg = [average([x.R(i, i) - x.R(k, i) for i in range(k)]) for k in tasks]
    out: dict[str, Any] = {
        "acc_final": acc[-1],
        "acc_by_boundary": acc,
        "forg_final": forg[-1],
        "forg_by_boundary": forg,
        "min_acc_final": min_acc(x, x.b[-1]),
        "min_acc_by_boundary": [min_acc(x, b) for b in x.b],
        "min_acc_per_task": [lowest_after(x, i, x.b[-1]) for i in range(x.K - 1)],
        "min_acc_curve": [min_acc(x, t) for t in x.times],
        "wc_acc_final": wc_acc(x, x.b[-1]),
        "wc_acc_by_boundary": [wc_acc(x, b) for b in x.b],
        "wc_acc_curve": [wc_acc(x, t) for t in x.times],
        "aa_curve": [seen_mean(x, t) for t in x.times],
        "gap": gap(x),
    }
    for name, change in (("wf", falls), ("wp", rises)):
        per_task = {str(w): [change(x.seen_series(i), w) for i in tasks] for w in windows}
        out[name + "_per_task"] = per_task
        out[name] = {w: average(values) for w, values in per_task.items()}
    out["lca_agem"] = {str(b): lca_agem(x, b) for b in betas}
    out["lca_first_evals"] = {str(b): lca_first_evals(x, b) for b in betas}
    return out


# --- Part B -----------------------------------------------------------------------------------


def part_b(x: Trace) -> dict[str, Any]:
    K, L = x.K, x.K - 1
    below = [(k, i) for k in range(K) for i in range(K) if i < k]
    above = [(k, i) for k in range(K) for i in range(K) if i > k]
    at_or_below = [(k, i) for k in range(K) for i in range(K) if i <= k]
    drift = average([x.R(k, i) - x.R(i, i) for k, i in below])
    fwt = [minus(x.R(i - 1, i), x.z(i)) for i in range(1, K)]
    return {
        "avg_anytime_acc": average([seen_mean(x, t) for t in x.times]),
        "avg_incremental_acc": average([seen_mean(x, b) for b in x.b]),
        "learning_acc": average([x.R(k, k) for k in range(K)]),
        "lower_triangle_acc": average([x.R(k, i) for k, i in at_or_below]),
        "stream_acc_by_boundary": [average([x.R(k, i) for i in range(K)]) for k in range(K)],
        "bwt": average([x.R(L, i) - x.R(i, i) for i in range(L)]),
        "bwt_triangular": drift,
        "remembering": None if drift is None else 1 - abs(min(drift, 0)),
        "positive_bwt": None if drift is None else max(drift, 0),
        "forgetting_chaudhry": average(
            [max(x.R(m, i) for m in range(i, L)) - x.R(L, i) for i in range(L)]
        ),
        "forgetting_incl_final": average(
            [max(x.R(m, i) for m in range(i, L + 1)) - x.R(L, i) for i in range(L)]
        ),
        "fwt_per_task": fwt,
        "fwt": average(fwt),
        "fwt_triangular": average([x.R(k, i) for k, i in above]),
    }


def references(x: Trace, prefix: Any, joint: Any, alone: Any) -> dict[str, Any]:
    K, L = x.K, x.K - 1
    out = {}
    if prefix is not None:
        out["intransigence"] = average([minus(prefix[k], x.R(k, k)) for k in range(K)])
    if alone is not None:
        out["fwt_vs_independent"] = average([minus(x.R(k, k), alone[k]) for k in range(1, K)])
    if joint is not None:
        ratios = []
        for i in range(K):
            undefined = x.z(i) is None or joint[i] is None or joint[i] - x.z(i) == 0
            ratios.append(None if undefined else (x.R(L, i) - x.z(i)) / (joint[i] - x.z(i)))
        mean = average(ratios)
        out["forgetting_ratio"] = None if mean is None else mean - 1
    return out


def summarize(
    rows: Any,
    *,
    joint_prefix: Any = None,
    joint_all: Any = None,
    independent: Any = None,
    windows: Any = (3, 10, 100),
    betas: Any = (3, 10),
) -> dict[str, Any]:
    x = Trace(rows)
    return {
        "n_experiences": x.K,
        "boundaries": x.b,
        "eval_iterations": x.times,
        "R": [[x.R(k, i) for i in range(x.K)] for k in range(x.K)],
        "init_acc": [x.z(i) for i in range(x.K)],
        **part_a(x, {*windows, 10, 100}, {*betas, 10}),
        **part_b(x),
        **references(x, joint_prefix, joint_all, independent),
    }
