"""One run that was told to forget, beside the model that never learned it and the one never asked.

M_u is the run at its end, M_pre what it was just before each request, M_r the retrained run, M_o
the one never asked, M_0 the untrained one. Everything is asked of all of them alike.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clframe.audit import agreement, attacks, relearn
from clframe.audit.attacks import Outputs, Sets
from clframe.audit.evidence import Evidence, Forgotten, accuracy, answers, features, gather
from clframe.audit.recovery import Lesson
from clframe.config.companions import Audit
from clframe.config.schema import RunConfig
from clframe.core.strategy import Strategy
from clframe.engine.build import make_stream
from clframe.engine.load import load_run
from clframe.evaluation.timeline import mean, mean_present
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
    """Everything of one run that needs its models, by section; undefined numbers are None."""
    evidence = gather(make_stream(case.cfg), audit.samples)
    answered = {
        name: _answers(model(folder), evidence)
        for name, folder in (
            ("unlearned", case.folder),
            ("retrained", case.retrained),
            ("unasked", case.unasked),
        )
    }
    before = {
        f.position: model(case.folder, f"before-{f.position}.ckpt") for f in evidence.forgotten
    }
    return {
        "accuracy": {name: _accuracies(sets) for name, sets in answered.items()},
        "gain": _gain(answered["unlearned"].retain_test, answered["unasked"].retain_test),
        "agreement": _agreement(case, evidence, answered),
        "attacks": _attacks(case, evidence, answered, before, audit),
        "requests": [_request(case, evidence, lost, before, audit) for lost in evidence.forgotten],
        "confidence": {
            name: attacks.logit_confidence(*answered[name].forget_train[:2]).tolist()
            for name in ("unlearned", "retrained")
        },
        "cost": _cost(case),
    }


def _answers(found: Strategy, evidence: Evidence) -> Sets:
    parts = (getattr(evidence, split) for split in ("retain_train", "retain_test"))
    lost = (getattr(evidence, split) for split in ("forget_train", "forget_test"))
    return Sets(*(answers(found, p, by_task=evidence.by_task) for p in (*parts, *lost)))


def _accuracies(sets: Sets) -> dict[str, float | None]:
    held = _by_task(sets.retain_test)
    return {
        **{split: accuracy(getattr(sets, split)) for split in SPLITS},
        "worst_held": min(held.values(), default=None),
    }


def _by_task(given: Outputs) -> dict[int, float]:
    right = given.p.argmax(1) == given.y
    return {int(k): float(right[given.task == k].mean()) for k in np.unique(given.task)}


def _gain(ours: Outputs, original: Outputs) -> float | None:
    """AG: mean over held tasks of what forgetting has freed."""
    u, o = _by_task(ours), _by_task(original)
    return mean(u[k] - o[k] for k in u)


def _agreement(
    case: Case, evidence: Evidence, answered: Mapping[str, Sets]
) -> dict[str, dict[str, Any]]:
    """Distances from the retrained model, on what was forgotten and on what was not."""
    ours, theirs = answered["unlearned"], answered["retrained"]
    active = None
    if not evidence.by_task and evidence.emptied:
        width = ours.retain_test.p.shape[1]
        active = ~np.isin(np.arange(width), evidence.emptied)
        active = active if active.any() else None
    found = {}
    for split in ("forget_test", "retain_test"):
        parts = getattr(evidence, split)
        floor = {}
        if len(case.peers) > 1:
            peers = [answers(model(p), parts, by_task=evidence.by_task).p for p in case.peers]
            distances = agreement.divergences(active)
            floor = {name: agreement.noise_floor(peers, f) for name, f in distances.items()}
        zero = answers(model(case.folder, trained=False), parts, by_task=evidence.by_task).p
        pair = tuple(features(model(p), parts) for p in (case.folder, case.retrained))
        values = agreement.compare(
            getattr(ours, split).p,
            getattr(theirs, split).p,
            features=None if pair[0] is None or pair[1] is None else pair,
            untrained=zero,
            active=active,
        )
        found[split] = {
            name: agreement.against(value, floor.get(name))._asdict()
            for name, value in values.items()
        }
    return found


def _attacks(
    case: Case,
    evidence: Evidence,
    answered: Mapping[str, Sets],
    before: Mapping[int, Strategy],
    audit: Audit,
) -> dict[str, dict[str, Any]]:
    """Every attack on every model; M_pre answers for what it was about to forget."""
    last = before[max(before)]
    lost = {
        split: [
            answers(before[f.position], getattr(f, split), by_task=evidence.by_task)
            for f in evidence.forgotten
        ]
        for split in ("train", "test")
    }
    held = [answers(last, p, by_task=evidence.by_task) for p in
            (evidence.retain_train, evidence.retain_test)]  # fmt: skip
    pre = Sets(*held, *(_joined(lost[split]) for split in ("train", "test")))
    run = functools.partial(attacks.run_attacks, seed=case.cfg.seed, per_task=audit.attack_samples)
    return attacks.verdicts(
        {name: run(sets) for name, sets in (*answered.items(), ("before", pre))}
    )


def _joined(found: Sequence[Outputs]) -> Outputs:
    width = max(o.p.shape[1] for o in found)
    return Outputs(
        np.concatenate([np.pad(o.p, ((0, 0), (0, width - o.p.shape[1]))) for o in found]),
        np.concatenate([o.y for o in found]),
        np.concatenate([o.task for o in found]),
    )


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
    known = accuracy(answers(models["before"], lost.test, by_task=evidence.by_task))
    lesson = Lesson(case.cfg, lost, evidence.by_task)
    curves = {
        name: lesson.curve(models[name], audit.relearn_steps) for name in ("unlearned", "retrained")
    }
    times: dict[str, Any] = {}
    if all(curves.values()) and known > 0:
        steps = range(audit.relearn_steps + 1)
        found = relearn.anamnesis_by_margin(known, curves["unlearned"], curves["retrained"], steps)
        times = {
            f"{margin:g}": {"unlearned": str(u), "retrained": str(r), **asdict(index)}
            for margin, (u, r, index) in found.items()
        }
    recovery = []
    for images in audit.recovery:
        ends = {k: lesson.curve(m, audit.relearn_steps, images)[-1:] for k, m in models.items()}
        recovery.append({"images": images, **{k: v[0] if v else None for k, v in ends.items()}})
    return {
        "position": lost.position,
        "name": lost.name,
        "before": known,
        "times": times,
        "curves": curves,
        "recovery": recovery,
        "probe": {name: _probe(m, lost) for name, m in models.items()},
    }


def _probe(found: Strategy, lost: Forgotten) -> float | None:
    """Test accuracy of a linear classifier on the features of what was forgotten."""
    x = [features(found, parts) for parts in (lost.train, lost.test)]
    y = [np.concatenate([p.samples.y.numpy() for p in parts]) for parts in (lost.train, lost.test)]
    if x[0] is None or x[1] is None or len(np.unique(y[0])) < 2:
        return None
    return relearn.linear_probe(x[0], y[0], x[1], y[1])


def _cost(case: Case) -> dict[str, Any]:
    """Seconds and updates of requests, beside all that retraining took; data read, storage."""
    ours, theirs = (RunStore(f).read_record() for f in (case.folder, case.retrained))
    kinds = {e["index"]: e["kind"] for e in ours.data["experiences"]}
    asked = [row for row in ours.spent if kinds[row["index"]] == "forget"]
    seconds, again = (
        mean_present(r["seconds"] for r in asked),
        sum(r["seconds"] for r in theirs.spent),
    )
    return {
        "seconds": seconds,
        "updates": mean_present(r["updates"] for r in asked),
        "samples": mean_present(r["samples"] for r in asked),
        "retrain_seconds": again,
        "fraction": None if seconds is None or not again else seconds / again,
        "data_handed_over": any(r.data for r in case.cfg.request_list() or []),
        "past_samples": ours.cost["past_samples"] - theirs.cost["past_samples"],
        "memory_bytes": ours.cost["memory_bytes"],
    }
