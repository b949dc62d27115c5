"""The numbers that tell what forgetting did to a run, from its metrics and from its audit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

from clframe.evaluation.timeline import mean, mean_present
from clframe.report.load import Cell
from clframe.tracking.store import RunStore

MARGIN = "0.05"  # of the relearn time: up to 5% below what was known
LEAST_SIGNAL = 0.05  # of an attack on M_pre, mean over seeds
Facts = dict[str, Any]  # of one cell: `behaviour`, of its metrics, and `audit`; perhaps empty


class Limit(NamedTuple):
    """A number of which, with bound ">" or "<", no more is known than that."""

    value: float
    bound: str = ""


Number = Callable[[Facts], float | None]


@dataclass(frozen=True)
class Figure:
    """One number of a cell.

    worst: which end of the seeds is the bad one. spread: it has one over seeds. page: shown in the
    report, not in its CSV alone. note: what is shown in its place.
    """

    key: str
    head: str
    meaning: str
    of: Callable[[Facts], float | Limit | None]
    worst: Callable[[Iterable[float]], float] | None = None
    places: int = 1
    spread: bool = True
    page: bool = True
    note: Callable[[Sequence[Facts]], str] = lambda found: ""


def facts_of(cell: Cell) -> Facts | None:
    """What is known of a cell that was told to forget; None of others."""
    behaviour = cell.metrics.get("unlearning") or {}
    audit = RunStore(cell.folder).read_audit()
    if not behaviour and not audit.get("requests"):
        return None
    return {"behaviour": behaviour, "audit": audit}


def valid(facts: Facts) -> set[str]:
    """The experiences that are forgotten at the end, and were known, as an audit names them."""
    behaviour, audit = facts["behaviour"], facts["audit"]
    if not behaviour:
        return {str(k) for r in audit.get("requests", ()) if not r["void"] for k in r["tasks"]}
    return {str(behaviour["tasks"][f["task"]]) for f in _forgotten(facts)}


def _forgotten(facts: Facts) -> list[dict[str, Any]]:
    forgets = facts["behaviour"].get("forgets", ())
    return [f for f in forgets if f["until"] is None and not f["void"]]


def _void(found: Sequence[Facts]) -> str:
    return "" if any(map(valid, found)) else "void"


def _behaviour(key: str) -> Number:
    def read(facts: Facts) -> float | None:
        value = facts["behaviour"].get(key)
        return None if value is None else 100 * value

    return read


def _audited(*path: str, scale: float = 1.0) -> Number:
    def read(facts: Facts) -> float | None:
        found: Any = facts["audit"]
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return None if found is None else float(found) * scale  # "inf" is text in the file

    return read


def _accuracy(model: str, split: str) -> Number:
    """Mean over experiences, of what is forgotten the valid ones; of a run without audit by all
    its test data."""

    def read(facts: Facts) -> float | None:
        known = facts["audit"].get("by_task", {}).get(model)
        if known is not None:
            return _over(facts, split, known[split])
        own = {"retain_test": "retain_accuracy", "forget_test": "forget_accuracy_valid"}
        value = facts["behaviour"].get(own.get(split, "")) if model == "unlearned" else None
        return None if value is None else 100 * value

    return read


def _over(facts: Facts, split: str, known: dict[str, float]) -> float | None:
    use = valid(facts) if split.startswith("forget") else known.keys()
    return mean_present(100 * a for k, a in known.items() if k in use)


def _gap(split: str) -> Number:
    """The accuracy of the run minus that of the retrained one, on the audit's samples."""
    both = [_accuracy(model, split) for model in ("unlearned", "retrained")]

    def read(facts: Facts) -> float | None:
        ours, theirs = (of(facts) for of in both)
        return None if ours is None or theirs is None or not facts["audit"] else ours - theirs

    return read


def _accuracy_floor(split: str) -> Number:
    """By how much two retrained runs differ in the same."""

    def read(facts: Facts) -> float | None:
        peers = [_over(facts, split, p) for p in facts["audit"].get("peers", {}).get(split, ())]
        known = [p for p in peers if p is not None]
        return mean(abs(a - b) for a, b in permutations(known, 2))

    return read


def _worst_held(facts: Facts) -> float | None:
    known = facts["audit"].get("by_task", {}).get("unlearned", {}).get("retain_test", {})
    if known:
        return 100 * min(known.values())
    return _behaviour("worst_held")(facts)


def _above_chance(facts: Facts) -> float | None:
    accuracy = _accuracy("unlearned", "forget_test")(facts)
    chance = mean(100 * f["chance"] for f in _forgotten(facts))
    return None if accuracy is None or chance is None else accuracy - chance


def _overdone(facts: Facts) -> float | None:
    """1 where less is left than the retrained run has, by more than two of those differ."""
    gap, floor = _gap("forget_test")(facts), _accuracy_floor("forget_test")(facts)
    return None if gap is None or floor is None else float(gap < -floor)


def _relearn(facts: Facts) -> Limit | None:
    """The median anamnesis index of the requests that have one and are not void."""
    requests = [r for r in facts["audit"].get("requests", ()) if not r["void"]]
    times = [t for r in requests if (t := r["times"].get(MARGIN)) and t["value"] is not None]
    return middle_of([Limit(t["value"], t["bound"]) for t in times])


def middle_of(limits: Sequence[Limit]) -> Limit | None:
    """The median, with a bound just beside its value; the lower one where two do not average."""
    order = {"<": -1, "": 0, ">": 1}
    ranked = sorted(limits, key=lambda limit: (limit.value, order[limit.bound]))
    if not ranked:
        return None
    low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
    return low if low.bound or high.bound else Limit((low.value + high.value) / 2)


def _farthest(values: Iterable[float]) -> float:
    """From 1, by ratio."""
    return max(values, key=lambda v: abs(math.log(v)) if v > 0 else math.inf)


def _probe(facts: Facts) -> float | None:
    """What a linear classifier on the features does better than on the retrained model's."""
    found = [r["probe"] for r in facts["audit"].get("requests", ())]
    gaps = [100 * (p["unlearned"] - p["retrained"]) for p in found if None not in p.values()]
    return mean_present(gaps)


def _blunt(attack: str) -> Callable[[Sequence[Facts]], str]:
    """An attack that tells little even before the request, over all seeds, tells nothing after."""

    def note(found: Sequence[Facts]) -> str:
        signals = [f["audit"].get("attacks", {}).get(attack, {}).get("signal") for f in found]
        signal = mean_present(signals)
        return "uninformative" if signal is not None and signal < LEAST_SIGNAL else ""

    return note


def _attacks(key: str, head: str, attack: str, page: bool = True) -> Iterator[Figure]:
    """An attack on M_u, M_r, M_pre and M_o."""
    for short, mark, of, model in (
        ("", "", "the run", "unlearned"),
        ("_r", " (r)", "the retrained model", "retrained"),
        ("_pre", " (pre)", "the model just before each request", "before"),
        ("_o", " (o)", "the run never asked", "unasked"),
    ):
        meaning, worst = f"{head} attack on {of}", None if short else max
        read, note = _audited("attacks", attack, model), _blunt(attack)
        shown = page and short != "_o"
        yield Figure(key + short, head + mark, meaning, read, worst, 3, page=shown, note=note)


def _distances(
    key: str, head: str, meaning: str, name: str, *, split: str = "forget_test", page: bool = True
) -> Iterator[Figure]:
    """A distance from the retrained model, that between two of those, and their ratio."""
    of, path = f"{meaning} on {split.replace('_', '-')}", ("agreement", split, name)
    floor, ratio = "the same between two retrained models", "the same over its floor"
    yield Figure(key, head, of, _audited(*path, "value"), max, 3, page=page)
    yield Figure(f"{key}_floor", f"{head} floor", floor, _audited(*path, "floor"), None, 3,
                 spread=False, page=page)  # fmt: skip
    yield Figure(f"{key}_ratio", f"{head} / floor", ratio, _audited(*path, "ratio"), max, 2,
                 page=False)  # fmt: skip


def _given(found: Sequence[Facts]) -> str:
    said = {f["audit"].get("cost", {}).get("data_handed_over") for f in found}
    return {True: "yes", False: "no"}.get(said.pop(), "") if len(said) == 1 else ""


FIGURES = (
    Figure("ra", "RA ↑", "accuracy on what is held, %", _accuracy("unlearned", "retain_test"), min),
    Figure("ra_r", "RA(r)", "of the retrained model, %", _accuracy("retrained", "retain_test")),
    Figure("ra_gap", "RA − RA(r)", "their difference, points", _gap("retain_test"), min),
    Figure("ra_floor", "RA(r) floor", "by how much two retrained models differ there, points",
           _accuracy_floor("retain_test"), spread=False, page=False),
    Figure("worst", "worst held", "the held experience that is known least, %", _worst_held, min),
    Figure("gain", "AG", "RA minus that of the run never asked, points",
           _audited("gain", scale=100), min),
    Figure("fa", "FA", "accuracy on what is forgotten (its test data), %",
           _accuracy("unlearned", "forget_test"), max, note=_void),
    Figure("fa_r", "FA(r)", "of the retrained model, %", _accuracy("retrained", "forget_test"),
           note=_void),
    Figure("fa_gap", "FA − FA(r)", "their difference, points: 0 is the aim", _gap("forget_test"),
           note=_void),
    Figure("fa_floor", "FA(r) floor", "by how much two retrained models differ there, points",
           _accuracy_floor("forget_test"), spread=False, note=_void),
    Figure("over", "over-forgets", "share of seeds with FA under FA(r) by more than the floor",
           _overdone, None, 1, spread=False, note=_void),
    Figure("fa_chance", "FA − c", "FA minus chance, points", _above_chance, note=_void),
    Figure("fa_train", "FA train", "accuracy on what is forgotten (its training data), %",
           _accuracy("unlearned", "forget_train"), max, page=False, note=_void),
    Figure("fa_train_gap", "FA train − (r)", "minus the retrained model's, points",
           _gap("forget_train"), note=_void),
    Figure("spill", "spill", "mean signed change of what is held at a request, points",
           _behaviour("signed_spill"), min),
    Figure("spill_sum", "spill (sum)", "sum of all changes' sizes at a request, points (UnCLe's)",
           _behaviour("spill"), max, page=False),
    Figure("relapse", "peak relapse", "the most that is back at the end of a later request, points",
           _behaviour("peak_relapse"), max),
    Figure("late_relapse", "late relapse", "the same from the third further experience on",
           _behaviour("late_relapse"), max),
    Figure("forgetting", "forgetting", "of what is held, from its best, points",
           _behaviour("forgetting"), max),
    *_distances("js", "JS", "distance of outputs from the retrained model's, nats,", "js"),
    *_distances("kl", "KL", "KL(retrained, run), nats,", "kl"),
    *_distances("tv", "TV", "total variation", "total_variation", page=False),
    *_distances("l2", "L2", "activation distance", "activation_distance", page=False),
    *_distances("other", "disagreement", "share of other answers", "disagreement", page=False),
    *_distances("js_retain", "JS held", "distance of outputs, nats,", "js", split="retain_test"),
    *_distances("kl_retain", "KL held", "KL(retrained, run), nats,", "kl", split="retain_test",
                page=False),
    Figure("uni", "UNI", "1 − JS to a uniform answer on forget-test, bits",
           _audited("agreement", "forget_test", "uniformity", "value"), None, 3),
    Figure("zrf", "ZRF", "1 − JS to the untrained model's answer on forget-test, bits",
           _audited("agreement", "forget_test", "zrf", "value"), None, 3, page=False),
    *_distances("cka", "1 − CKA", "distance of features from the retrained model's", "cka"),
    *_attacks("svc", "SVC", "svc_probabilities"),
    *_attacks("svc_correctness", "SVC (correctness)", "svc_correctness", page=False),
    *_attacks("svc_confidence", "SVC (confidence)", "svc_confidence", page=False),
    *_attacks("svc_entropy", "SVC (entropy)", "svc_entropy", page=False),
    *_attacks("entropy", "entropy", "entropy"),
    *_attacks("loss", "loss AUC", "loss"),
    Figure("lira", "U-LiRA", "per-example attack (0.5: nothing)", _audited("lira", "score"), None,
           3, spread=False),
    Figure("lira_pairs", "U-LiRA pairs", "a headline takes 17", _audited("lira", "detail",
           "num_pairs"), None, 0, spread=False),
    Figure("ain", "AIN", "relearn time over the retrained model's: 1 is the aim, below 1 remembers",
           _relearn, _farthest, 2),
    Figure("probe", "probe", "accuracy of a linear probe over the retrained model's, points",
           _probe, max),
    Figure("seconds", "s a request", "seconds of a forget request, evaluation apart",
           _audited("cost", "seconds"), max, 2),
    Figure("fraction", "of retraining", "the same as a share of training the retrained model",
           _audited("cost", "fraction"), max, 3),
    Figure("updates", "updates", "of a forget request", _audited("cost", "updates"), None, 0),
    Figure("samples", "samples", "samples that these updates are made on",
           _audited("cost", "samples"), None, 0),
    Figure("past", "earlier samples", "not handed over, that they could be drawn from",
           _audited("cost", "past_samples"), None, 0),
    Figure("given", "forget data", "whether requests hand over what they withdraw",
           _audited("cost", "data_handed_over"), None, 0, page=False, note=_given),
    Figure("memory", "memory, kB", "what the run keeps of earlier samples at its end",
           _audited("cost", "memory_bytes", scale=1e-3), None, 0, page=False),
)  # fmt: skip
