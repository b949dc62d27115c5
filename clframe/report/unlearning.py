"""What forgetting did, as tables: how each method compares with never having learned it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clframe.evaluation.timeline import mean_present
from clframe.report.groups import Group
from clframe.report.load import Cell
from clframe.report.tables import Record, Table
from clframe.report.views import NONE, View

FILE = "audit.json"
MARGIN = "0.05"  # of the relearn time: up to 5% below what was known
NOTE = (
    "Mean ± standard deviation over seeds; then the worst seed, where worst means something. "
    "A forget score is void where too little was known to be forgotten (less than 15 points over "
    "chance) or too little is retained (within 5 points of it)."
)
REQUEST_NOTE = (
    "After each request, in percent: mean over what is held (RA) and over what is forgotten (FA), "
    "the mean change that a request to forget makes to what is held (spill), and the most that has "
    "come back of anything forgotten by then."
)
Facts = dict[str, Any]  # of one cell: `behaviour`, from its metrics, and `audit`, if it was judged


@dataclass(frozen=True)
class Figure:
    """One number of a cell; `worst`: which end of the seeds is the bad one."""

    key: str
    head: str
    meaning: str
    of: Callable[[Facts], float | None]
    worst: Callable[[Iterable[float]], float] | None = None
    places: int = 1


def _behaviour(key: str) -> Callable[[Facts], float | None]:
    def read(facts: Facts) -> float | None:
        value = facts["behaviour"].get(key)
        return None if value is None else 100 * value

    return read


def _audited(*path: str, scale: float = 1.0) -> Callable[[Facts], float | None]:
    def read(facts: Facts) -> float | None:
        found: Any = facts["audit"]
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return found * scale if isinstance(found, int | float) else None

    return read


def _gap(split: str) -> Callable[[Facts], float | None]:
    """The accuracy of the run minus that of the retrained one; of what is forgotten the valid."""

    def read(facts: Facts) -> float | None:
        known = facts["audit"].get("by_task", {})
        ours, theirs = (known.get(name, {}).get(split, {}) for name in ("unlearned", "retrained"))
        use = _valid(facts) if split.startswith("forget") else set(ours)
        return mean_present(100 * (ours[k] - theirs[k]) for k in ours if k in use and k in theirs)

    return read


def _valid(facts: Facts) -> set[str]:
    """The experiences whose forget score is no void one, as an audit names them."""
    behaviour = facts["behaviour"]
    valid = [f["task"] for f in behaviour.get("forgets", ()) if not f["void"]]
    return {str(behaviour["tasks"][k]) for k in valid}


def _above_chance(facts: Facts) -> float | None:
    forgets = facts["behaviour"].get("forgets", ())
    valid = [f for f in forgets if not f["void"] and f["until"] is None]
    return mean_present(100 * (f["accuracy"] - f["chance"]) for f in valid)


def _attack(name: str, model: str) -> Callable[[Facts], float | None]:
    """An attack's score on one of the models; None where it tells nothing even before."""

    def read(facts: Facts) -> float | None:
        found = facts["audit"].get("attacks", {}).get(name, {})
        return None if not found or found.get("note") else found.get(model)

    return read


def _relearn(facts: Facts) -> float | None:
    """The median anamnesis index of the requests that have one, whatever its bound."""
    times = [r["times"].get(MARGIN) for r in facts["audit"].get("requests", ())]
    values = [t["value"] for t in times if t and t["value"] is not None]
    return float(np.median(values)) if values else None


def _probe(facts: Facts) -> float | None:
    """What a linear classifier on the features does better than on the retrained model's."""
    found = [r["probe"] for r in facts["audit"].get("requests", ())]
    gaps = [100 * (p["unlearned"] - p["retrained"]) for p in found if None not in p.values()]
    return mean_present(gaps)


FIGURES = (
    Figure("ra", "RA ↑", "accuracy on what is held, %", _behaviour("retain_accuracy"), min),
    Figure("ra_gap", "RA − RA(r)", "minus the retrained model's, points", _gap("retain_test"), min),
    Figure("ra_r", "RA(r)", "of the retrained model, on the audit's samples, %",
           _audited("accuracy", "retrained", "retain_test", scale=100)),
    Figure("gain", "AG", "minus that of the run never asked, points",
           _audited("gain", scale=100), min),
    Figure("fa", "FA", "accuracy on what is forgotten (its test data), %",
           _behaviour("forget_accuracy_valid"), max),
    Figure("fa_r", "FA(r)", "of the retrained model, on the audit's samples, %",
           _audited("accuracy", "retrained", "forget_test", scale=100)),
    Figure("fa_chance", "FA − c", "minus chance, points", _above_chance),
    Figure("fa_gap", "FA − FA(r)", "minus the retrained model's, points: 0 is the aim",
           _gap("forget_test")),
    Figure("fa_floor", "FA(r) floor", "by how much two retrained models differ there, points",
           _audited("floor", "forget_test", scale=100)),
    Figure("fa_train", "FA train − (r)", "the same on the training data", _gap("forget_train")),
    Figure("spill", "spill", "mean signed change of what is held at a request, points",
           _behaviour("signed_spill"), min),
    Figure("relapse", "peak relapse", "the most that comes back later, points",
           _behaviour("peak_relapse"), max),
    Figure("late_relapse", "late relapse", "the same from the third further task on",
           _behaviour("late_relapse"), max),
    Figure("forgetting", "forgetting", "of what is held, from its best, points",
           _behaviour("forgetting"), max),
    Figure("js", "JS", "distance of outputs from the retrained model's on forget-test, nats",
           _audited("agreement", "forget_test", "js", "value"), max, 3),
    Figure("js_floor", "JS floor", "the same between two retrained models",
           _audited("agreement", "forget_test", "js", "floor"), None, 3),
    Figure("kl", "KL", "KL(retrained, run) on forget-test, nats",
           _audited("agreement", "forget_test", "kl", "value"), max, 3),
    Figure("js_retain", "JS held", "distance of outputs on retain-test, nats",
           _audited("agreement", "retain_test", "js", "value"), max, 3),
    Figure("uni", "UNI", "1 − JS to a uniform answer on forget-test, bits",
           _audited("agreement", "forget_test", "uniformity", "value"), None, 3),
    Figure("cka", "1 − CKA", "distance of features from the retrained model's on forget-test",
           _audited("agreement", "forget_test", "cka", "value"), None, 3),
    Figure("cka_floor", "1 − CKA floor", "the same between two retrained models",
           _audited("agreement", "forget_test", "cka", "floor"), None, 3),
    Figure("svc", "SVC", "membership attack on the run (0.5: nothing)",
           _attack("svc_probabilities", "unlearned"), max, 3),
    Figure("svc_r", "SVC (r)", "the same on the retrained model",
           _attack("svc_probabilities", "retrained"), None, 3),
    Figure("loss", "loss AUC", "threshold attack on the run",
           _attack("loss", "unlearned"), max, 3),
    Figure("loss_r", "loss AUC (r)", "the same on the retrained model",
           _attack("loss", "retrained"), None, 3),
    Figure("lira", "U-LiRA", "per-example attack; below 16 seeds no headline",
           _audited("lira", "score"), None, 3),
    Figure("ain", "AIN", "relearn time over the retrained model's: 1 is the aim, below 1 remembers",
           _relearn, min, 2),
    Figure("probe", "probe", "accuracy of a linear probe over the retrained model's, points",
           _probe, max),
    Figure("seconds", "s a request", "seconds of a forget request, evaluation apart",
           _audited("cost", "seconds"), max, 2),
    Figure("fraction", "of retraining", "the same as a share of training the retrained model",
           _audited("cost", "fraction"), max, 3),
    Figure("samples", "samples", "samples that a request is trained on",
           _audited("cost", "samples"), None, 0),
    Figure("past", "past data", "of those, earlier samples that were not handed over",
           _audited("cost", "past_samples"), None, 0),
)  # fmt: skip


def facts_of(cell: Cell) -> Facts | None:
    """What is known of a cell that was told to forget; None of others."""
    behaviour = cell.metrics.get("unlearning")
    if behaviour is None:
        return None
    path = cell.folder / FILE
    return {"behaviour": behaviour, "audit": json.loads(path.read_text()) if path.exists() else {}}


def unlearning_table(groups: Sequence[Group]) -> Table:
    """One record per benchmark, method and figure: mean, standard deviation, worst seed."""
    table = []
    for group in groups:
        found = [f for f in map(facts_of, group.cells) if f is not None]
        for figure in FIGURES if found else ():
            numbers = [figure.of(f) for f in found]
            table.append(
                {"benchmark": group.benchmark, "method": group.method.label}
                | {"figure": figure.key, "meaning": figure.meaning}
                | {"void": sum(not _valid(f) for f in found), **_spread(numbers, figure.worst)}
            )
    return table


def requests_table(groups: Sequence[Group]) -> Table:
    """One record per benchmark, method and request: means over seeds, in percent and seconds."""
    table = []
    for group in groups:
        found = [(c, f) for c in group.cells if (f := facts_of(c)) is not None]
        for i in range(len(found[0][1]["behaviour"]["rows"]) if found else 0):
            rows = [f["behaviour"]["rows"][i] for _, f in found]
            tasks = [found[0][1]["behaviour"]["tasks"][k] for k in rows[0]["tasks"]]
            keys = ("retain_accuracy", "forget_accuracy", "signed_spill", "peak_relapse")
            table.append(
                {"benchmark": group.benchmark, "method": group.method.label}
                | {"request": i, "name": rows[0]["op"] + ",".join(map(str, tasks))}
                | {key: _percent(r[key] for r in rows) for key in keys}
                | {"seconds": mean_present(_seconds(c, rows[0]["position"]) for c, _ in found)}
            )
    return table


def _seconds(cell: Cell, position: int) -> float | None:
    spent = cell.record.get("spent", ())
    return next((float(r["seconds"]) for r in spent if r["index"] == position), None)


def _percent(values: Iterable[float | None]) -> float | None:
    found = mean_present(values)
    return None if found is None else 100 * found


def _spread(
    numbers: Sequence[float | None], worst: Callable[[Iterable[float]], float] | None
) -> Record:
    known = [x for x in numbers if x is not None]
    return {
        "n": len(known),
        "nulls": len(numbers) - len(known),
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "worst": worst(known) if known and worst else None,
    }


def unlearning_views(summary: Table, requests: Table, benchmark: str) -> list[View]:
    """The summary of each method, turned over so that it fits a page, and each request's row."""
    own = [r for r in summary if r["benchmark"] == benchmark]
    if not own:
        return []
    methods = list(dict.fromkeys(r["method"] for r in own))
    by = {(r["method"], r["figure"]): r for r in own}
    rows = [
        [f.head, *(_shown(by[m, f.key], f) for m in methods), f.meaning]
        for f in FIGURES
        if any(by[m, f.key]["mean"] is not None for m in methods)
    ]
    whole = View(f"{benchmark}: unlearning", ["", *methods, "what"], rows, NOTE)
    mine = [r for r in requests if r["benchmark"] == benchmark]
    names = list(dict.fromkeys((r["request"], r["name"]) for r in mine))
    cell = {(r["method"], r["request"]): r for r in mine}
    head = ["method", *(name for _, name in names)]
    shown = [[m, *(_states(cell.get((m, i))) for i, _ in names)] for m in methods]
    return [whole, View(f"{benchmark}: request by request, RA / FA", head, shown, REQUEST_NOTE)]


def _shown(record: Record, figure: Figure) -> str:
    if record["mean"] is None:
        void = figure.key.startswith("fa") and record["void"]
        return "void" if void else NONE
    text = f"{record['mean']:.{figure.places}f}"
    if record["std"] is not None:
        text += f" ± {record['std']:.{figure.places}f}"
    if record["worst"] is not None:
        text += f" ({record['worst']:.{figure.places}f})"
    return (text + (f" n={record['n']}" if record["nulls"] else "")).replace("-", "−")


def _states(record: Record | None) -> str:
    if record is None:
        return NONE
    held, lost = record["retain_accuracy"], record["forget_accuracy"]
    return " / ".join(NONE if v is None else f"{v:.0f}" for v in (held, lost))
