"""The cases: which work, which contenders, what is made of their measurements, and the goal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import wall
from contend import Finding, Measurement, Options, measure, rounds

AVALANCHE_ITERS = 3  # it takes minutes where the others take seconds: rates are compared
BARE, CLFRAME, AVALANCHE = "bare.py", "framework.py", "avalanche_loop.py"
# 20 samples of each experience, on full sets as well: where one forward takes milliseconds
FEW = ("eval.split=val", "options.split_fmnist.val_share=0.00167")


def cost(
    options: Options, *, goal: float, faster: float | None = None, **fields: Any
) -> list[Finding]:
    """Cost of clframe over the cost of the bare loop; with `faster`, of Avalanche over clframe."""
    work = options.work(**fields)
    contenders = {"bare": (BARE, work), "clframe": (CLFRAME, work)}
    if faster and options.avalanche:
        contenders["avalanche"] = (AVALANCHE, work._replace(iters=AVALANCHE_ITERS))
    found = rounds(options, contenders)
    bare, cell = (_column(found, name, "seconds") for name in ("bare", "clframe"))
    findings = [Finding("clframe's cell / bare loop", _over(cell, bare), goal)]
    if options.device == "cpu":
        both = _sum(cell, _column(found, "clframe", "supervisor"))
        findings.append(Finding("with its supervisor / bare loop", _over(both, bare)))
    share = _over(_column(found, "clframe", "boundaries"), cell)
    findings.append(Finding("of the cell, full test sets at boundaries", share))
    if "avalanche" in contenders:
        slow, ours = (_column(found, name, "us_per_sample") for name in ("avalanche", "clframe"))
        what = "Avalanche / clframe's cell, per evaluated sample"
        findings.append(Finding(what, _over(slow, ours), faster, at_least=True))
    return findings


def mode(
    options: Options, *, name: str, words: tuple[str, ...] = (), goal: float | None = None
) -> list[Finding]:
    """Cost of clframe evaluating in one mode over plain evaluation, all else being equal."""
    modes = {m: options.work(words=(*words, f"eval.mode={m}")) for m in ("plain", name)}
    found = rounds(options, {m: (CLFRAME, work) for m, work in modes.items()})
    ratios = _over(_column(found, name, "seconds"), _column(found, "plain", "seconds"))
    return [Finding(f"clframe's cell, eval.mode={name} / eval.mode=plain", ratios, goal)]


def pair(options: Options) -> list[Finding]:
    """The fixed cost in ms of evaluating one experience once, from tiny subsets."""
    on, scripts = options.work(subset=10, iters=600), {"clframe": CLFRAME, "bare": BARE}
    off = on._replace(rho=0)
    found = rounds(
        options,
        {name: (script, on) for name, script in scripts.items()}
        | {f"{name} off": (script, off) for name, script in scripts.items()},
    )
    findings = []
    for name, goal in (("clframe", 0.15), ("bare", None)):
        more, less = _column(found, name, "seconds"), _column(found, f"{name} off", "seconds")
        values = [(a - b) / on.pairs * 1e3 for a, b in zip(more, less, strict=True)]
        findings.append(Finding(f"{name}, ms per evaluation and experience", values, goal))
    return findings


def memory(options: Options) -> list[Finding]:
    """Peak resident size of clframe's cell over that of the bare loop."""
    work = options.work(iters=100)
    found = rounds(options, {"bare": (BARE, work), "clframe": (CLFRAME, work)})
    peaks = _over(_column(found, "clframe", "peak_mb"), _column(found, "bare", "peak_mb"))
    return [Finding("peak memory, clframe's cell / bare loop", peaks, 1.1)]


def counts(options: Options) -> list[Finding]:
    """Correct counts on the same weights: differences to the bare loop's forward."""
    findings = []
    for net in [options.net] if options.net else ["mlp", "lenet"]:
        works = [options.work(net=net, iters=50, seed=r) for r in range(options.rounds)]
        found = [measure("exact.py", work, "counts") for work in works]
        total = sum(facts["predictions"] for facts in found)
        what = f"{net}, correct counts that differ, of {total} predictions"
        findings.append(Finding(what, [float(facts["differ"]) for facts in found], 0.0))
    return findings


def weights(options: Options) -> list[Finding]:
    """Entries of the final state that change when evaluation is on."""
    small = {"net": "slim_resnet18", "subset": 20, "words": ("net.args.width=4", *FEW)}
    findings = []
    for fields in ({}, small):
        works = [options.work(**{"iters": 30} | fields, seed=r) for r in range(options.rounds)]
        found = [measure("exact.py", work, "weights") for work in works]
        what = f"{works[0].net}, entries of the final state that evaluation changes"
        findings.append(Finding(what, [float(facts["differ"]) for facts in found], 0.0))
    return findings


def fewer(options: Options) -> list[Finding]:
    """Difference of min-ACC to that from all 2,000 test samples, in points, by what it is from."""
    findings: dict[str, list[float]] = {}
    for r in range(options.rounds):
        work = options.work(iters=100, seed=r)
        told = {"all": "eval.subset=all"}
        told |= {f"{n} per experience": f"eval.subset={n}" for n in (1000, 250, 100)}
        told |= {f"{n} over all seen": f"eval.budget={n}" for n in (1000, 250)}
        told |= {f"{n} updates apart": f"eval.rho={n}" for n in (2, 10)}
        base = work.words
        low = {
            label: measure("samples.py", work._replace(words=(*base, word)), label)
            for label, word in told.items()
        }
        for label in list(low)[1:]:
            error = low[label]["min_acc_final"] - low["all"]["min_acc_final"]
            findings.setdefault(label, []).append(100 * error)
    return [Finding(f"min-ACC, points off with {k}", v) for k, v in findings.items()]


def _column(found: list[dict[str, Measurement]], script: str, key: str) -> list[float]:
    return [measured[script][key] for measured in found]


def _sum(one: list[float], other: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _over(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


Case = Callable[[Options], list[Finding]]
CASES: dict[str, tuple[Case, str]] = {
    "mlp": (
        partial(cost, goal=1.15, faster=16.0),
        "MLP 784-256-256-10, rho=1: <= 1.15 of the bare loop, >= 16 times cheaper than Avalanche",
    ),
    "lenet": (
        partial(cost, goal=1.10, faster=4.0, net="lenet", iters=100),
        "LeNet, rho=1: <= 1.10 of the bare loop, >= 4 times cheaper than Avalanche",
    ),
    "resnet": (
        partial(
            cost,
            goal=1.05,
            net="slim_resnet18",
            iters=40,
            subset=20,
            words=FEW,
        ),
        "slim ResNet-18, rho=1, 20 samples per experience: <= 1.05 of the bare loop",
    ),
    "rho10": (
        partial(cost, goal=1.3, rho=10, iters=1200),
        "MLP, rho=10: <= 1.3 of the bare loop",
    ),
    "train10": (
        partial(cost, goal=1.5, rho=0, iters=1200),
        "training alone, MLP, batch 10+10: <= 1.5 of the bare loop",
    ),
    "train128": (
        partial(cost, goal=1.15, rho=0, batch=128, iters=90, epochs=5),
        "training alone, MLP, batch 128+128: <= 1.15 of the bare loop",
    ),
    "pair": (pair, "fixed cost of one evaluation of one experience: <= 0.15 ms"),
    "memory": (memory, "peak memory of a cell: <= 1.1 of the bare loop"),
    "counts": (counts, "correct counts on the same weights: 0 differ of >= 300,000 predictions"),
    "weights": (weights, "final weights with evaluation on and off: bit-identical"),
    "frozen": (
        partial(mode, name="auto", words=("net.freeze=true",)),
        "a frozen backbone, rho=1: with its features kept over plain evaluation (no goal)",
    ),
    "bf16": (
        partial(mode, name="bf16", goal=0.65),
        "bfloat16 with a second look: <= 0.65 of plain evaluation, where there is hardware for it",
    ),
    "fewer": (fewer, "what fewer samples or fewer evaluations do to min-ACC (no goal)"),
    "grid": (wall.grid, "two cells on two cores: wall <= 1.1 of two bare loops side by side"),
    "ranks": (wall.ranks, "evaluation on two idle cores by two ranks: >= 1.7 times that of one"),
    "startup": (wall.startup, "clframe list: <= 0.3 s; clframe run, to the first update: <= 6 s"),
    "stream": (wall.stream, "an experience of a stream of 1,000 over one of 100: flat, so about 1"),
}
