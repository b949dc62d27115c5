"""Methods against a named baseline, seed by seed, and their standing over all benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clframe.errors import ClframeError, nearest
from clframe.evaluation.statistics import bootstrap_iqm, holm, iqm, paired, prob_greater
from clframe.report.columns import BY_KEY, COMPARED, SCORES
from clframe.report.groups import Group, Method, by_benchmark
from clframe.report.tables import Record, Table
from clframe.report.values import Values

FEW_SEEDS = 5


def choose_baseline(groups: Sequence[Group], named: str | None) -> str | None:
    """The strategy or method label that differences are taken to: by default the grid's first.

    None when there is no method.
    """
    methods = list(dict.fromkeys(g.method for g in groups if not g.reference))
    known = [m.strategy for m in methods] + [m.label for m in methods]
    if named is not None and named not in known:
        raise ClframeError(
            f"no finished method {named!r} to compare with.{nearest(named, known)}\n"
            f"Methods: {', '.join(dict.fromkeys(known)) or 'none'}."
        )
    return named or next(iter(known), None)


def baseline_for(group: Group, members: Sequence[Group], baseline: str) -> Group | None:
    """The baseline's group on this benchmark; of its variants the one that shares most settings."""
    fitting = [
        g for g in members if not g.reference and baseline in (g.method.label, g.method.strategy)
    ]
    shared = [len(set(g.method.variant) & set(group.method.variant)) for g in fitting]
    return fitting[int(np.argmax(shared))] if fitting else None


def paired_table(
    groups: Sequence[Group], values: Mapping[str, Values], baseline: str | None
) -> Table:
    """Differences to the baseline over shared seeds; p values Holm-corrected within each metric.

    A wrapped strategy (`wrapper+base`) is also compared with what it wraps, at equal settings.
    """
    table: Table = []
    for members in by_benchmark(groups).values():
        for group in (g for g in members if not g.reference):
            found = [] if baseline is None else [baseline_for(group, members, baseline)]
            found += [g for g in members if _wrapped(g.method, group.method)]
            bases = {b.method: b for b in found if b is not None and b.method != group.method}
            for base in bases.values():
                table += [_difference(key, group, base, values) for key in COMPARED]
    for key in COMPARED:
        rows = [r for r in table if r["metric"] == key]
        for row, p in zip(rows, holm([r["p_sign_flip"] for r in rows]), strict=True):
            row["p_holm"] = p
    return table


def _wrapped(base: Method, method: Method) -> bool:
    """Whether `method` is a wrapper around `base`, with whatever is set of it set alike."""
    inner = method.strategy.partition("+")[2]
    return inner == base.strategy and set(base.variant) <= set(method.variant)


def _difference(key: str, group: Group, base: Group, values: Mapping[str, Values]) -> Record:
    seeds = sorted(set(group.seeds) | set(base.seeds))
    mine, theirs = ({c.seed: values[c.id][key] for c in side.cells} for side in (group, base))
    column = BY_KEY[key]
    result = paired([mine.get(s) for s in seeds], [theirs.get(s) for s in seeds])
    record: Record = {"benchmark": group.benchmark, "method": group.method.label}
    record |= {"baseline": base.method.label, "metric": key, "label": column.label}
    record |= {"unit": "points", "better": column.better, "seeds": len(seeds)}
    low, high = None, None
    if result.mean is not None and result.half is not None:
        low, high = result.mean - result.half, result.mean + result.half
    record |= {"n": result.n, "mean": result.mean, "half": result.half, "low": low, "high": high}
    return record | {
        "p_sign_flip": result.p_sign_flip,
        "p_t": result.p_t,
        "p_wilcoxon": result.p_wilcoxon,
    }


def aggregate_table(
    groups: Sequence[Group], values: Mapping[str, Values], baseline: str | None
) -> Table:
    """IQM over seeds x benchmarks with its bootstrap interval, and P(method > baseline)."""
    competing = [g for g in groups if not g.reference]
    benchmarks = list(by_benchmark(competing))
    methods = list(dict.fromkeys(g.method for g in competing))
    table = []
    for key in SCORES:
        for method in methods:
            own = _matrix(key, method, competing, values)
            if own is None:
                continue
            other = _opponent(key, method, methods, baseline, competing, values)
            low, high = bootstrap_iqm(own) if len(own) > 1 else (None, None)
            table.append(
                {"method": method.label, "metric": key, "label": BY_KEY[key].label, "unit": "%"}
                | {"seeds": len(own), "benchmarks": len(benchmarks)}
                | {"iqm": iqm(own.ravel().tolist()) * 100}
                | {"low": low and low * 100, "high": high and high * 100}
                | {"p_better": None if other is None else _p_better(own, other)}
                | {"warning": _caution(len(own))}
            )
    return table


def _matrix(
    key: str, method: Method, groups: Sequence[Group], values: Mapping[str, Values]
) -> NDArray[np.float64] | None:
    """Scores in [0, 1], seeds x benchmarks; only seeds that every benchmark has."""
    columns = []
    for benchmark in by_benchmark(groups):
        own = [g for g in groups if g.benchmark == benchmark and g.method == method]
        columns.append({c.seed: values[c.id][key] for g in own for c in g.cells})
    seeds = set.intersection(*(set(c) for c in columns))
    rows = [[c[s] for c in columns] for s in sorted(seeds)]
    whole = [[x / 100 for x in row if x is not None] for row in rows if None not in row]
    return np.array(whole) if whole else None


def _opponent(
    key: str,
    method: Method,
    methods: Sequence[Method],
    baseline: str | None,
    groups: Sequence[Group],
    values: Mapping[str, Values],
) -> NDArray[np.float64] | None:
    named = [m for m in methods if baseline in (m.label, m.strategy)]
    if not named:
        return None
    closest = max(named, key=lambda m: len(set(m.variant) & set(method.variant)))
    return None if closest == method else _matrix(key, closest, groups, values)


def _p_better(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    pairs = zip(own.T.tolist(), other.T.tolist(), strict=True)
    return float(np.mean([prob_greater(mine, theirs) for mine, theirs in pairs]))


def _caution(seeds: int) -> str | None:
    if seeds >= FEW_SEEDS:
        return None
    return f"{seeds} seed(s): below {FEW_SEEDS} the bootstrap interval is too narrow"
