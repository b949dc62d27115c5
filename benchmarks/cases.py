"""The cases: which work, which contenders, what is made of their measurements, and the goal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from contend import Measurement, Options, rounds

AVALANCHE_ITERS = 3  # it takes minutes where the others take seconds: rates are compared
BARE, CLFRAME, AVALANCHE = "bare.py", "framework.py", "avalanche_loop.py"


class Finding(NamedTuple):
    """One figure, a value per round."""

    what: str
    values: list[float]
    goal: float | None = None
    at_least: bool = False


def cost(
    options: Options, *, goal: float, faster: float | None = None, **fields: Any
) -> list[Finding]:
    """Cost of clframe over the cost of the bare loop; with `faster`, of Avalanche over clframe."""
    work = options.work(**fields)
    contenders = {BARE: work, CLFRAME: work}
    if faster and options.avalanche:
        contenders[AVALANCHE] = work._replace(iters=AVALANCHE_ITERS)
    found = rounds(options, contenders)
    bare, cell = (_column(found, script, "seconds") for script in (BARE, CLFRAME))
    findings = [Finding("clframe's cell / bare loop", _over(cell, bare), goal)]
    if options.device == "cpu":
        both = [r[CLFRAME]["seconds"] + r[CLFRAME]["supervisor"] for r in found]
        findings.append(Finding("with its supervisor / bare loop", _over(both, bare)))
    share = _over(_column(found, CLFRAME, "boundaries"), cell)
    findings.append(Finding("of the cell, full test sets at boundaries", share))
    if AVALANCHE in contenders:
        slow, ours = (_column(found, script, "us_per_sample") for script in (AVALANCHE, CLFRAME))
        what = "Avalanche / clframe's cell, per evaluated sample"
        findings.append(Finding(what, _over(slow, ours), faster, at_least=True))
    return findings


def pair(options: Options) -> list[Finding]:
    """The fixed cost in ms of evaluating one experience once, from tiny subsets."""
    on = options.work(subset=10, iters=300)
    found = rounds(options, {BARE: on, CLFRAME: on})
    none = rounds(options, {BARE: on._replace(rho=0), CLFRAME: on._replace(rho=0)})
    findings = []
    for script, name, goal in ((CLFRAME, "clframe", 0.15), (BARE, "bare loop", None)):
        both = zip(_column(found, script, "seconds"), _column(none, script, "seconds"), strict=True)
        values = [(a - b) / on.pairs * 1e3 for a, b in both]
        findings.append(Finding(f"{name}, ms per evaluation and experience", values, goal))
    return findings


def memory(options: Options) -> list[Finding]:
    """Peak resident size of clframe's cell over that of the bare loop."""
    work = options.work(iters=100)
    found = rounds(options, {BARE: work, CLFRAME: work})
    peaks = _over(_column(found, CLFRAME, "peak_mb"), _column(found, BARE, "peak_mb"))
    return [Finding("peak memory, clframe's cell / bare loop", peaks, 1.1)]


def _column(found: list[dict[str, Measurement]], script: str, key: str) -> list[float]:
    return [measured[script][key] for measured in found]


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
            words=("eval.split=val", "options.split_fmnist.val_share=0.00167"),
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
}
