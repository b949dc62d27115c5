"""What an audit says of one run, from the models it is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clframe.audit import agreement, attacks
from clframe.audit.bench import Bench, Case
from clframe.audit.evidence import Evidence, Part, answers, features, gather
from clframe.audit.judge import judge as judge_with
from clframe.audit.recovery import Lesson
from clframe.config.companions import Audit, retrained, unasked
from clframe.config.identity import run_id, to_yaml
from clframe.config.load import load_run
from clframe.config.schema import RunConfig
from clframe.engine.build import make_stream
from clframe.engine.load import load_run as model
from clframe.engine.run import run_cell
from clframe.tracking.store import RunRecord, RunStore
from tests.conftest import small_words

SMALL = Audit(samples=60, relearn_steps=3, recovery=[1], attack_samples=30)
SPLIT = "options.split_digits"
PAIRS = tuple(f"{SPLIT}.{w}" for w in ("setting=task", "base=2", "increment=2", "experiences=5"))


def judge(case: Case) -> dict[str, Any]:
    return judge_with(case, Bench(case, SMALL))


def trained(folder: Path, *words: str) -> Case:
    """A run and its companions, trained in this process."""
    base = ("epochs=4", "optim.lr=0.2", "copies=true", *words)
    cfg = load_run(small_words(*base, "options.split_digits.seed=0"))
    places = []
    for name, one in (("own", cfg), ("retrained", retrained(cfg)), ("unasked", unasked(cfg))):
        store = RunStore(folder / name)
        store.folder.mkdir()
        store.config_path.write_text(to_yaml(one))
        store.write_record(RunRecord(id=run_id(one), grid="test", started_ms=1_000_000))
        assert run_cell(store.folder) == 0, store.read_record().error
        places.append(store.folder)
    return Case(cfg, *places, (places[1],))


def test_a_model_is_no_distance_from_itself(tmp_path: Path) -> None:
    case = trained(tmp_path, "strategy=replay", "requests=L0 L1 U0 L2")
    own = case.folder
    found = judge(replace(case, retrained=own, unasked=own, peers=(own, own)))
    for split in ("forget_test", "retain_test"):
        readings = found["agreement"][split]
        for name in ("kl", "js", "total_variation", "activation_distance", "disagreement"):
            assert readings[name] == {"value": 0.0, "floor": 0.0, "ratio": None}, name
        for name in ("euclidean", "manhattan", "cosine"):
            assert readings[name]["value"] == 0.0, name
        assert readings["cka"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["gain"] == 0.0
    assert len(set(map(str, found["by_task"].values()))) == 1
    for scores in found["attacks"].values():
        assert scores["unlearned"] == scores["retrained"] == scores["unasked"]
    (request,) = found["requests"]
    assert request["curves"]["unlearned"] == request["curves"]["retrained"]
    for time in request["times"].values():
        assert time["value"] in (None, 1.0)
    assert found["confidence"]["unlearned"] == found["confidence"]["retrained"]


def test_members_are_what_a_model_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[set[int]]()
    real = attacks.run_attacks

    def spy(given: attacks.Sets, **how: Any) -> Any:
        seen.append(set(given.retain_train.task.tolist()))
        return real(given, **how)

    monkeypatch.setattr(attacks, "run_attacks", spy)
    judge(trained(tmp_path, "strategy=replay", "requests=L0 L1 U0 L2"))
    assert sorted(map(sorted, seen)) == [[1], *[[1, 2]] * 3], "2 was learned after the request"


def test_each_model_stands_where_it_belongs(tmp_path: Path) -> None:
    """Each number is worked out from the models that it is about, which all differ."""
    words = ("strategy=relabel+replay", "forget_data=true", "requests=L0 L1 U0 L2 L3", *PAIRS)
    case = trained(tmp_path, *words)
    found, evidence = judge(case), gather(make_stream(case.cfg), SMALL.samples)
    models = {
        "unlearned": model(case.folder),
        "retrained": model(case.retrained),
        "unasked": model(case.unasked),
        "before": model(case.folder, "before-2.ckpt"),
    }
    test, held = evidence.forget_test, evidence.retain_test
    for name in ("unlearned", "retrained", "unasked"):
        given = answers(models[name], test, evidence)
        right = float((given.p.argmax(1) == given.y).mean())
        assert found["by_task"][name]["forget_test"] == {0: pytest.approx(right)}, name
    known = {n: found["by_task"][n]["retain_test"] for n in ("unlearned", "unasked")}
    gains = [known["unlearned"][k] - known["unasked"][k] for k in (1, 2, 3)]
    assert found["gain"] == pytest.approx(np.mean(gains))
    ours, theirs = (features(models[n], test) for n in ("unlearned", "retrained"))
    distance = agreement.cka_distance(ours, theirs)
    assert found["agreement"]["forget_test"]["cka"]["value"] == pytest.approx(distance)
    outputs = [answers(m, held, evidence).p for m in (models["unlearned"], models["retrained"])]
    js = agreement.js(*outputs)
    assert found["agreement"]["retain_test"]["js"]["value"] == pytest.approx(js) and js > 0
    untrained = answers(model(case.folder, trained=False), test, evidence).p
    zrf = agreement.zrf(answers(models["unlearned"], test, evidence).p, untrained)
    assert found["agreement"]["forget_test"]["zrf"]["value"] == pytest.approx(zrf)
    (request,), (lost,) = found["requests"], evidence.forgotten
    lesson = Lesson(case.cfg, lost, evidence.by_task)
    assert request["before"] == lesson.accuracy(models["before"])
    curves = {name: lesson.curve(m, SMALL.relearn_steps) for name, m in models.items()}
    assert request["curves"] == {name: curves[name] for name in ("unlearned", "retrained")}
    (recovery,) = request["recovery"]
    for name in ("unlearned", "retrained", "before"):
        assert recovery[name] == lesson.after(models[name], SMALL.relearn_steps, 1), name
    assert len({tuple(curve) for curve in curves.values()}) > 2, "else none could be mistaken"
    ends = {name: lesson.after(models[name], SMALL.relearn_steps, 1) for name in curves}
    assert ends != {name: curve[-1] for name, curve in curves.items()}, "one image is fewer"
    spent = {f: sum(r["seconds"] for r in RunStore(f).read_record().spent)
             for f in (case.folder, case.retrained)}  # fmt: skip
    cost = found["cost"]
    assert cost["retrain_seconds"] == spent[case.retrained] != spent[case.folder]
    assert cost["fraction"] == cost["seconds"] / cost["retrain_seconds"]
    assert cost["updates"] == 50 and cost["data_handed_over"]


def test_classes_of_which_nothing_is_held_are_left_out_of_distances(tmp_path: Path) -> None:
    """Of the classes 0 to 9, one request takes 1 and 2: two models are compared by the others."""
    requests = "requests=[L0, L1, {forget: {classes: [1, 2]}}, L2]"
    case = trained(tmp_path, "strategy=discard+replay", requests)
    found = judge(case)
    evidence = gather(make_stream(case.cfg), SMALL.samples)
    assert evidence.emptied == (1, 2)
    both = (model(case.folder), model(case.retrained))
    ours, theirs = (answers(m, evidence.retain_test, evidence).p for m in both)
    assert (ours[:, [1, 2]] == 0).all() and (theirs[:, [1, 2]] > 0).any()
    held = np.isin(np.arange(10), (1, 2), invert=True)
    expected = agreement.js(ours, theirs, held)
    assert found["agreement"]["retain_test"]["js"]["value"] == pytest.approx(expected)
    (request,) = found["requests"]
    assert request["name"] == "U0 part" and found["by_task"]["unlearned"]["forget_test"] == {0: 0.0}


def test_so_are_they_where_not_every_class_was_learned(tmp_path: Path) -> None:
    case = trained(tmp_path, "strategy=replay", "requests=L1 L2 U1")
    found = judge(case)
    evidence = gather(make_stream(case.cfg), SMALL.samples)
    assert evidence.emptied == (4, 5, 6) and evidence.retain_test[0].classes == tuple(range(4, 10))
    both = (model(case.folder), model(case.retrained))
    ours, theirs = (answers(m, evidence.retain_test, evidence).p for m in both)
    expected = agreement.js(ours, theirs, [False] * 3 + [True] * 3)
    assert found["agreement"]["retain_test"]["js"]["value"] == pytest.approx(expected)


def test_tasks_with_outputs_of_their_own_forgotten_together(tmp_path: Path) -> None:
    requests = "requests=[L0, L1, L2, {forget: {tasks: [0, 1]}}]"
    case = trained(tmp_path, "strategy=replay", requests, *PAIRS)
    (request,) = judge(case)["requests"]
    assert request["name"] == "U0,1" and len(request["curves"]["unlearned"]) == 4


def test_tasks_of_unequal_size(tmp_path: Path) -> None:
    words = ("options.split_digits.setting=task", "requests=L0 L1 U0 L2")
    found = judge(trained(tmp_path, "strategy=replay", *words))
    assert found["attacks"]["svc_probabilities"].keys() >= {"unlearned", "retrained", "before"}


def test_tasks_with_outputs_of_their_own(tmp_path: Path) -> None:
    """Closed outputs are all alike: a uniform answer, of which the first class is the guess."""
    case = trained(tmp_path, "strategy=discard+replay", "requests=L0 L1 U0 L2", *PAIRS)
    found = judge(case)
    assert found["agreement"]["forget_test"]["uniformity"]["value"] == pytest.approx(1)
    assert found["by_task"]["unlearned"]["forget_test"] == {0: pytest.approx(0.5, abs=0.1)}


def test_a_run_that_forgot_nothing_in_the_end_has_nothing_to_judge(tmp_path: Path) -> None:
    assert judge(trained(tmp_path, "strategy=replay", "requests=L0 L1 U0 L0")) == {}


def test_single_samples_are_judged_by_their_own(tmp_path: Path) -> None:
    uids = make_stream(load_run(small_words("strategy=replay"))).experiences[0].train.uid
    some = ", ".join(map(str, uids[:9].tolist()))
    requests = f"requests=[L0, L1, {{forget: {{uids: [{some}]}}}}, L2]"
    case = trained(tmp_path, "strategy=relabel+replay", "forget_data=true", requests)
    found = judge(case)
    assert len(found["confidence"]["unlearned"]) == 9
    assert found["cost"]["updates"] == 50 and found["cost"]["data_handed_over"]
    assert "unlearning" not in RunStore(case.folder).read_metrics()


def test_a_relearned_task_is_not_asked_about(tmp_path: Path) -> None:
    case = trained(tmp_path, "strategy=replay", "requests=L0 L1 U0 U1 L0")
    found = judge(case)
    assert [r["name"] for r in found["requests"]] == ["U1"]


def test_answers_are_distributions_over_the_classes_of_the_part(tmp_path: Path) -> None:
    cfg: RunConfig = load_run(small_words("strategy=fine_tune", "requests=L0 L1 L2"))
    store = RunStore(tmp_path / "one")
    store.folder.mkdir()
    store.config_path.write_text(to_yaml(cfg))
    store.write_record(RunRecord(id=run_id(cfg), grid="test", started_ms=1_000_000))
    assert run_cell(store.folder) == 0
    stream = make_stream(cfg)
    parts = [Part(e.origin, e.eval, e.classes) for e in stream]
    evidence = Evidence([], parts, parts, (), False)
    found = answers(model(store.folder), parts, evidence)
    assert found.p.dtype == np.float64 and found.p.shape == (sum(len(e.eval) for e in stream), 4)
    assert np.allclose(found.p.sum(1), 1) and (found.p[found.task != 0][:, 3] == 0).all()
    truth = np.concatenate([e.eval.y.numpy() - min(e.classes) for e in stream])
    assert (found.y == truth).all()
    alone = answers(model(store.folder), parts[1:2], evidence)
    assert (alone.p == found.p[found.task == 1]).all()
