"""One run that was told to forget, beside the model that never learned it and the one never asked.

M_u is the run at its end, M_pre what it was just before each request, M_r the retrained run, M_o
the one never asked, M_0 the untrained one. Everything is asked of all of them alike.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clframe.audit import agreement, attacks, relearn
from clframe.audit.attacks import Outputs, Sets
from clframe.audit.evidence import Evidence, Forgotten, Part, accuracy, answers, features, gather
from clframe.audit.recovery import Lesson
from clframe.config.companions import Audit
from clframe.config.schema import RunConfig
from clframe.core.strategy import Strategy
from clframe.engine.build import make_stream
from clframe.engine.load import load_run
from clframe.errors import ClframeError
from clframe.evaluation.timeline import mean_present
from clframe.tracking.store import RunStore

SPLITS = ("forget_train", "forget_test", "retain_train", "retain_test")


@dataclass(frozen=True)
class Case:
    """A run's folder with those of its companions; `peers`: retrained runs on the same data."""

    cfg: RunConfig
    folder: Path
    retrained: Path
    unasked: Path
    peers: tuple[Path, ...]


@functools.lru_cache(maxsize=64)
def model(folder: Path, checkpoint: str = "last.ckpt", trained: bool = True) -> Strategy:
    """A run's strategy, loaded once."""
    return load_run(folder, checkpoint, trained=trained)


def judge(case: Case, audit: Audit) -> dict[str, Any]:
    """Everything of one run that needs its models, by section; undefined numbers are None.

    Of a run that in the end has forgotten nothing there is none.
    """
    evidence = gather(make_stream(case.cfg), audit.samples)
    if not evidence.forgotten:
        return {}
    answered = {
        name: _answers(model(folder), evidence)
        for name, folder in (
            ("unlearned", case.folder),
            ("retrained", case.retrained),
            ("unasked", case.unasked),
        )
    }
    before = {f.position: _before(case.folder, f.position) for f in evidence.forgotten}
    known = {name: {split: by_task(getattr(sets, split)) for split in SPLITS}
             for name, sets in answered.items()}  # fmt: skip
    held = sorted(known["unlearned"]["retain_test"])
    ours, theirs = ([known[n]["retain_test"][k] for k in held] for n in ("unlearned", "unasked"))
    return {
        "accuracy": {name: _accuracies(sets) for name, sets in answered.items()},
        "by_task": known,
        "gain": agreement.accuracy_gain(ours, theirs, range(len(held))),
        "agreement": _agreement(case, evidence, answered),
        "floor": _accuracy_floor(case, evidence),
        "attacks": _attacks(case, evidence, answered, before, audit),
        "requests": [_request(case, evidence, lost, before, audit) for lost in evidence.forgotten],
        "confidence": {
            name: attacks.logit_confidence(*answered[name].forget_train[:2]).tolist()
            for name in ("unlearned", "retrained")
        },
        "cost": _cost(case),
    }


def _before(folder: Path, position: int) -> Strategy:
    name = f"before-{position}.ckpt"
    if not (folder / name).is_file():
        raise ClframeError(
            f"{folder / name} is missing: the run was made without copies=true. Delete its folder "
            "and run the grid again."
        )
    return model(folder, name)


def _answers(found: Strategy, evidence: Evidence) -> Sets:
    return Sets(**{split: answers(found, getattr(evidence, split), evidence) for split in SPLITS})


def _accuracies(sets: Sets) -> dict[str, float | None]:
    held = by_task(sets.retain_test)
    return {
        **{split: accuracy(getattr(sets, split)) for split in SPLITS},
        "worst_held": min(held.values(), default=None),
    }


def by_task(given: Outputs) -> dict[int, float]:
    """The accuracy on each of the scenario's experiences."""
    right = given.p.argmax(1) == given.y
    return {int(k): float(right[given.task == k].mean()) for k in np.unique(given.task)}


def _accuracy_floor(case: Case, evidence: Evidence) -> dict[str, float | None]:
    """By how much two retrained models differ on what was forgotten, and on what is held."""
    return {
        split: agreement.noise_floor(
            [accuracy(answers(model(p), getattr(evidence, split), evidence)) for p in case.peers],
            lambda a, b: abs(a - b),
        )
        for split in ("forget_test", "retain_test")
    }


def _agreement(
    case: Case, evidence: Evidence, answered: Mapping[str, Sets]
) -> dict[str, dict[str, Any]]:
    """Distances from the retrained model, on what was forgotten and on what was not."""
    active = None
    if not evidence.by_task and evidence.emptied:
        active = ~np.isin(evidence.forget_train[0].classes, evidence.emptied)
        active = active if active.any() else None
    found = {}
    for split in ("forget_test", "retain_test"):
        parts = getattr(evidence, split)
        seen = [features(model(p), parts) for p in (case.folder, case.retrained, *case.peers)]
        floor = _floors(case, evidence, parts, active, seen[2:])
        zero = answers(model(case.folder, trained=False), parts, evidence).p
        values = agreement.compare(
            getattr(answered["unlearned"], split).p,
            getattr(answered["retrained"], split).p,
            features=None if any(x is None for x in seen) else seen[:2],
            untrained=zero,
            active=active,
        )
        found[split] = {
            name: agreement.against(value, floor.get(name))._asdict()
            for name, value in values.items()
        }
    return found


def _floors(
    case: Case, evidence: Evidence, parts: Sequence[Part], active: Any, seen: Sequence[Any]
) -> dict[str, float | None]:
    """The same distances between retrained models of other seeds, on the same data."""
    peers = [answers(model(p), parts, evidence).p for p in case.peers]
    distances = agreement.divergences(active)
    floor = {name: agreement.noise_floor(peers, f) for name, f in distances.items()}
    if all(x is not None for x in seen):
        floor |= {name: agreement.noise_floor(seen, f) for name, f in agreement.FEATURES.items()}
    return floor


def _attacks(
    case: Case,
    evidence: Evidence,
    answered: Mapping[str, Sets],
    before: Mapping[int, Strategy],
    audit: Audit,
) -> dict[str, dict[str, Any]]:
    """Every attack on every model.

    M_pre of each request is attacked through what it held then; its scores are means over requests.
    """
    run = functools.partial(attacks.run_attacks, seed=case.cfg.seed, per_task=audit.attack_samples)
    models = {name: run(sets) for name, sets in answered.items()}
    pre = []
    for lost in evidence.forgotten:
        if lost.held_train and lost.test:
            parts = (lost.held_train, lost.held_test, lost.train, lost.test)
            pre.append(run(Sets(*(answers(before[lost.position], p, evidence) for p in parts))))
    if pre:
        models["before"] = {name: _mean(p[name] for p in pre) for name in pre[0]}
        return attacks.verdicts(models)
    return {
        name: {m: found[name].score for m, found in models.items()} | {"note": "no M_pre to attack"}
        for name in models["unlearned"]
    }


def _mean(found: Iterable[attacks.Attack]) -> attacks.Attack:
    every = list(found)
    score, signal = (mean_present(getattr(a, key) for a in every) for key in ("score", "signal"))
    return attacks.Attack(score, signal, {})


def _request(
    case: Case,
    evidence: Evidence,
    lost: Forgotten,
    before: Mapping[int, Strategy],
    audit: Audit,
) -> dict[str, Any]:
    """What is left of one thing forgotten: how soon it is back, from what, and in the features."""
    models = {
        "unlearned": model(case.folder),
        "retrained": model(case.retrained),
        "before": before[lost.position],
    }
    lesson = Lesson(case.cfg, lost, evidence.by_task)
    known = lesson.accuracy(models["before"]) if lost.test else None
    curves = {
        name: lesson.curve(models[name], audit.relearn_steps) for name in ("unlearned", "retrained")
    }
    times: dict[str, Any] = {}
    if all(curves.values()) and known:
        steps = range(audit.relearn_steps + 1)
        found = relearn.anamnesis_by_margin(known, curves["unlearned"], curves["retrained"], steps)
        times = {
            f"{margin:g}": {"unlearned": str(u), "retrained": str(r), **asdict(index)}
            for margin, (u, r, index) in found.items()
        }
    return {
        "position": lost.position,
        "name": lost.name,
        "before": known,
        "times": times,
        "curves": curves,
        "recovery": [
            {"images": images}
            | {k: lesson.after(m, audit.relearn_steps, images) for k, m in models.items()}
            for images in audit.recovery
        ],
        "probe": {name: _probe(m, lost) for name, m in models.items()},
    }


def _probe(found: Strategy, lost: Forgotten) -> float | None:
    """Test accuracy of a linear classifier on the features of what was forgotten."""
    if not lost.test:
        return None
    x = [features(found, parts) for parts in (lost.train, lost.test)]
    y = [np.concatenate([p.samples.y.numpy() for p in parts]) for parts in (lost.train, lost.test)]
    if x[0] is None or x[1] is None or len(np.unique(y[0])) < 2:
        return None
    return relearn.linear_probe(x[0], y[0], x[1], y[1])


def _cost(case: Case) -> dict[str, Any]:
    """Means over requests, and the seconds beside all that training the retrained run took."""
    ours, theirs = (RunStore(f).read_record() for f in (case.folder, case.retrained))
    kinds = {e["index"]: e["kind"] for e in ours.data["experiences"]}
    asked = [row for row in ours.spent if kinds[row["index"]] == "forget"]
    keys = ("seconds", "updates", "samples", "past_samples")
    means = {key: mean_present(row[key] for row in asked) for key in keys}
    again = sum(row["seconds"] for row in theirs.spent)
    return {
        **means,
        "retrain_seconds": again,
        "fraction": (means["seconds"] or 0.0) / again if again else None,
        "data_handed_over": any(r.data for r in case.cfg.request_list() or []),
        "memory_bytes": ours.cost["memory_bytes"],
    }
