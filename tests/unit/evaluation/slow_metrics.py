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
    """A_i(t) as a function, e(t), T_s and b_s; i and s are positions in the stream."""

    def __init__(self, rows: Any, kept: Any = None) -> None:
        rows = [r for r in rows if kept is None or r[0] == 0 or r[1] >= min(kept)]
        self.values = {(int(t), int(i)): float(a) for t, _, i, a in rows}
        self.e = {int(t): int(e) for t, e, _, _ in rows}
        self.times = sorted(t for t in self.e if t >= 1)
        self.stages = sorted({self.e[t] for t in self.times})
        self.kept = self.stages if kept is None else sorted(kept)
        self.T = {s: [t for t in self.times if self.e[t] == s] for s in self.stages}
        self.b = {s: max(times) for s, times in self.T.items()}
        self.last = self.stages[-1]

    def A(self, i: int, t: int) -> Any:
        return self.values.get((t, i))

    def R(self, s: int, i: int) -> Any:
        return self.A(i, self.b[s])

    def z(self, i: int) -> Any:
        return self.A(i, 0)

    def before(self, s: int) -> list[int]:
        return [i for i in self.kept if i < s]

    def seen(self, s: int) -> list[int]:
        return [i for i in self.kept if i <= s]

    def seen_series(self, i: int) -> list[float]:
        times = [t for t in self.times if self.e[t] >= i]
        if i == self.kept[0] and self.A(i, 0) is not None:
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
    return average([lowest_after(x, i, t) for i in x.before(x.e[t])])


def wc_acc(x: Trace, t: int) -> Any:
    if x.e[t] not in x.kept:  # nothing that counts is being learnt
        return min_acc(x, t)
    n, new = len(x.seen(x.e[t])), x.A(x.e[t], t)
    return new if n == 1 else new / n + (1 - 1 / n) * min_acc(x, t)


def seen_mean(x: Trace, t: int) -> Any:
    return average([x.A(i, t) for i in x.seen(x.e[t])])


def falls(series: list[float], w: int) -> float:
    n = range(len(series))
    return max([0.0] + [series[p] - series[q] for p in n for q in n if p < q <= p + w - 1])


def rises(series: list[float], w: int) -> float:
    n = range(len(series))
    return max([0.0] + [series[q] - series[p] for p in n for q in n if p < q <= p + w - 1])


def lca_agem(x: Trace, beta: int) -> Any:
    cells = []
    for k in x.kept:
        n = x.stages.index(k)
        start = x.b[x.stages[n - 1]] if n else 0
        for b in range(beta + 1):
            t = start + b
            inside = b == 0 or x.e.get(t) == k
            cells.append(x.A(k, t) if inside else None)
    return average(cells)


def lca_first_evals(x: Trace, beta: int) -> Any:
    means = []
    for i in x.kept:
        own = [x.A(i, t) for t in x.T[i]]
        if i == x.kept[0] and x.A(i, 0) is not None:
            own = [x.A(i, 0), *own]
        if len(own) >= beta:
            means.append(average(own[:beta]))
    return average(means)


def dip(x: Trace, k: int, new: int, i: int) -> dict[str, Any]:
    window = x.T[new]
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


def gap(x: Trace, asked: Any) -> Any:
    switches = [
        (k, new) for k, new in zip(x.stages, x.stages[1:], strict=False) if new not in asked
    ]
    if not switches:
        return None
    pairs = [(k, new, i) for k, new in switches for i in x.seen(k)]
    dips = {pair: dip(x, *pair) for pair in pairs}
    out: dict[str, Any] = {"pairs": {f"{k}->{new}|{i}": dips[k, new, i] for k, new, i in pairs}}
    recent = [(k, new, max(x.seen(k))) for k, new in switches]
    for name in ("depth", "depth_rel", "regain", "area", "area_norm", "time_to_min"):
        out[name + "_mean"] = average([dips[p][name] for p in pairs])
        out[name + "_recent_mean"] = average([dips[p][name] for p in recent])
    out["depth_by_transition"] = [
        average([dips[k, new, i]["depth"] for i in x.seen(k)]) for k, new in switches
    ]
    out["recovered_fraction"], out["recovery_time_mean"] = {}, {}
    for level in ("0.9", "0.95", "1.0"):
        times = [dips[p]["recovery_time"][level] for p in pairs]
        recovered = [t for t in times if t is not None]
        out["recovered_fraction"][level] = len(recovered) / len(times)
        out["recovery_time_mean"][level] = average(recovered)
    return out


def part_a(x: Trace, windows: Any, betas: Any, asked: Any) -> dict[str, Any]:
    acc = [average([x.R(s, i) for i in x.seen(s)]) for s in x.stages]
    forg = [average([x.R(i, i) - x.R(s, i) for i in x.before(s)]) for s in x.stages]
    ends = list(x.b.values())
    out: dict[str, Any] = {
        "acc_final": acc[-1],
        "acc_by_boundary": acc,
        "forg_final": forg[-1],
        "forg_by_boundary": forg,
        "min_acc_final": min_acc(x, ends[-1]),
        "min_acc_by_boundary": [min_acc(x, b) for b in ends],
        "min_acc_per_task": [lowest_after(x, i, ends[-1]) for i in x.before(x.last)],
        "min_acc_curve": [min_acc(x, t) for t in x.times],
        "wc_acc_final": wc_acc(x, ends[-1]),
        "wc_acc_by_boundary": [wc_acc(x, b) for b in ends],
        "wc_acc_curve": [wc_acc(x, t) for t in x.times],
        "aa_curve": [seen_mean(x, t) for t in x.times],
        "gap": gap(x, asked),
    }
    for name, change in (("wf", falls), ("wp", rises)):
        per_task = {str(w): [change(x.seen_series(i), w) for i in x.kept] for w in windows}
        out[name + "_per_task"] = per_task
        out[name] = {w: average(values) for w, values in per_task.items()}
    out["lca_agem"] = {str(b): lca_agem(x, b) for b in betas}
    out["lca_first_evals"] = {str(b): lca_first_evals(x, b) for b in betas}
    return out


# --- Part B -----------------------------------------------------------------------------------


def part_b(x: Trace, asked: Any) -> dict[str, Any]:
    below = [(s, i) for s in x.stages for i in x.before(s)]
    above = [(s, i) for s in x.stages for i in x.kept if i > s]
    at_or_below = [(s, i) for s in x.stages for i in x.seen(s)]
    drift = average([x.R(s, i) - x.R(i, i) for s, i in below])
    previous = dict(zip(x.stages[1:], x.stages, strict=False))
    fwt = [minus(x.R(previous[i], i), x.z(i)) for i in x.kept[1:]]
    old, L = x.before(x.last), x.last
    later = {i: [x.R(s, i) for s in x.stages if i <= s] for i in old}
    return {
        "avg_anytime_acc": average([seen_mean(x, t) for t in x.times if x.e[t] not in asked]),
        "avg_incremental_acc": average([seen_mean(x, b) for b in x.b.values()]),
        "learning_acc": average([x.R(k, k) for k in x.kept]),
        "lower_triangle_acc": average([x.R(s, i) for s, i in at_or_below]),
        "stream_acc_by_boundary": [average([x.R(s, i) for i in x.kept]) for s in x.stages],
        "bwt": average([x.R(L, i) - x.R(i, i) for i in old]),
        "bwt_triangular": drift,
        "remembering": None if drift is None else 1 - abs(min(drift, 0)),
        "positive_bwt": None if drift is None else max(drift, 0),
        "forgetting_chaudhry": average([max(later[i][:-1]) - later[i][-1] for i in old]),
        "forgetting_incl_final": average([max(later[i]) - later[i][-1] for i in old]),
        "fwt_per_task": fwt,
        "fwt": average(fwt),
        "fwt_triangular": average([x.R(s, i) for s, i in above]),
    }


def references(x: Trace, prefix: Any, joint: Any, alone: Any) -> dict[str, Any]:
    out = {}
    if prefix is not None:
        pairs = zip(prefix, x.kept, strict=True)
        out["intransigence"] = average([minus(p, x.R(k, k)) for p, k in pairs])
    if alone is not None:
        others = [*zip(alone, x.kept, strict=True)][1:]
        out["fwt_vs_independent"] = average([minus(x.R(k, k), a) for a, k in others])
    if joint is not None:
        ratios = []
        for best, i in zip(joint, x.kept, strict=True):
            undefined = x.z(i) is None or best is None or best - x.z(i) == 0
            ratios.append(None if undefined else (x.R(x.last, i) - x.z(i)) / (best - x.z(i)))
        mean = average(ratios)
        out["forgetting_ratio"] = None if mean is None else mean - 1
    return out


def summarize(
    rows: Any,
    *,
    kept: Any = None,
    requests: Any = (),
    joint_prefix: Any = None,
    joint_all: Any = None,
    independent: Any = None,
    windows: Any = (3, 10, 100),
    betas: Any = (3, 10),
) -> dict[str, Any]:
    x = Trace(rows, kept)
    return {
        "n_experiences": len(x.kept),
        "boundaries": list(x.b.values()),
        "eval_iterations": x.times,
        "R": [[x.R(s, i) for i in x.kept] for s in x.stages],
        "init_acc": [x.z(i) for i in x.kept],
        **part_a(x, {*windows, 10, 100}, {*betas, 10}, requests),
        **part_b(x, requests),
        **references(x, joint_prefix, joint_all, independent),
        **({} if kept is None else {"stages": x.stages, "kept": x.kept}),
    }
