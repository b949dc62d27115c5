"""One run that was told to forget, beside the model that never learned it and the one never asked.

M_u is the run at its end, M_pre what it was just before each request, M_r the retrained run, M_o
the one never asked, M_0 the untrained one. Everything is asked of all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from clframe.audit import agreement, attacks, relearn
from clframe.audit.attacks import Sets
from clframe.audit.bench import Bench, Case
from clframe.audit.evidence import Forgotten, accuracies, answers, features
from clframe.core.strategy import Strategy
from clframe.engine.load import load_run
from clframe.errors import ClframeError
from clframe.evaluation.timeline import mean_present
from clframe.evaluation.unlearning import LEARNED_BY
from clframe.tracking.store import RunStore


def judge(case: Case, bench: Bench) -> dict[str, Any]:
    """Everything of one run that needs its models, by section; undefined numbers are None.

    Of a run that in the end has forgotten nothing there is none. Raises ClframeError where copies
    from before a request are missing.
    """
    evidence = bench.evidence
    if not evidence.forgotten:
        return {}
    model = load_run(case.folder)
    answered = {"unlearned": bench.ask(model), **bench.answered}
    before = {f.position: _before(case, f.position) for f in evidence.forgotten}
    known = {
        name: {split: accuracies(given) for split, given in sets._asdict().items()}
        for name, sets in answered.items()
    }
    held = sorted(known["unlearned"]["retain_test"])
    ours, theirs = ([known[n]["retain_test"][k] for k in held] for n in ("unlearned", "unasked"))
    return {
        "by_task": known,
        "peers": {s: [accuracies(given) for given in all_] for s, (all_, _) in bench.peers.items()},
        "gain": agreement.accuracy_gain(ours, theirs, range(len(held))),
        "agreement": _agreement(case, bench, model, answered),
        "attacks": _attacks(bench, answered["unlearned"], before),
        "requests": [_request(bench, lost, model, before) for lost in evidence.forgotten],
        "confidence": {
            name: attacks.logit_confidence(*answered[name].forget_train[:2]).tolist()
            for name in ("unlearned", "retrained")
        },
        "cost": _cost(case),
    }


def _before(case: Case, position: int) -> Strategy:
    path = RunStore(case.folder).before_path(position)
    if not path.is_file():
        raise ClframeError(
            f"{path} is missing: the run was made without copies=true. Delete its folder and run "
            "the grid again."
        )
    return load_run(case.folder, path.name)


def _agreement(
    case: Case, bench: Bench, model: Strategy, answered: Mapping[str, Sets]
) -> dict[str, dict[str, Any]]:
    """Distances from the retrained model, on what was forgotten and on what was not."""
    untrained, found = load_run(case.folder, trained=False), {}
    for split, parts in bench.evidence.tests.items():
        seen = [features(m, parts) for m in (model, bench.retrained)]
        values = agreement.compare(
            getattr(answered["unlearned"], split).p,
            getattr(answered["retrained"], split).p,
            features=None if any(x is None for x in seen) else seen,
            untrained=answers(untrained, parts, bench.evidence).p,
            active=bench.active,
        )
        floors = bench.floors[split]
        found[split] = {
            name: agreement.against(value, floors.get(name))._asdict()
            for name, value in values.items()
        }
    return found


def _attacks(
    bench: Bench, unlearned: Sets, before: Mapping[int, Strategy]
) -> dict[str, dict[str, Any]]:
    """Every attack on every model.

    M_pre of each request is attacked through what it held then; its scores are means over requests.
    """
    models = {"unlearned": bench.attack(unlearned), **bench.attacked}
    pre = []
    for lost in bench.evidence.forgotten:
        if lost.held_train and lost.held_test and lost.test:
            parts = (lost.held_train, lost.held_test, lost.train, lost.test)
            model = before[lost.position]
            pre.append(bench.attack(Sets(*(answers(model, p, bench.evidence) for p in parts))))
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
    bench: Bench, lost: Forgotten, model: Strategy, before: Mapping[int, Strategy]
) -> dict[str, Any]:
    """What is left of one thing forgotten: how soon it is back, from what, and in the features."""
    models = {
        "unlearned": model,
        "retrained": bench.retrained,
        "before": before[lost.position],
    }
    known = bench.lesson(lost).accuracy(models["before"]) if lost.test else None
    curves = {name: bench.curve(lost, models[name]) for name in ("unlearned", "retrained")}
    times: dict[str, Any] = {}
    if all(curves.values()) and known:
        steps = range(bench.audit.relearn_steps + 1)
        found = relearn.anamnesis_by_margin(known, curves["unlearned"], curves["retrained"], steps)
        times = {
            f"{margin:g}": {"unlearned": str(u), "retrained": str(r), **asdict(index)}
            for margin, (u, r, index) in found.items()
        }
    chance = 1 / len(lost.train[0].classes)
    return {
        "position": lost.position,
        "name": lost.name,
        "tasks": sorted({part.origin for part in lost.train}),
        "before": known,
        "void": known is not None and known < chance + LEARNED_BY,
        "times": times,
        "curves": curves,
        "recovery": [
            {"images": images}
            | {name: bench.recovery(lost, m, images) for name, m in models.items()}
            for images in bench.audit.recovery
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
