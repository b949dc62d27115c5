"""Tables of what forgetting did, from numbers made by hand: what is void, undefined, or worst."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clframe.evaluation.unlearning import summarize
from clframe.report.groups import Group, Method
from clframe.report.load import Cell
from clframe.report.tables import Record, Table
from clframe.report.unlearning import requests_table, unlearning_table, unlearning_views
from clframe.report.verdicts import FIGURES
from clframe.report.write import write_json

ORDER = [("L", 0), ("L", 1), ("U", 0), ("L", 2)]
ROWS = [[0.9], [0.8, 0.9], [0.1, 0.7], [0.3, 0.8, 0.9]]  # after each request, on 0, 1, 2
SECONDS = [4.0, 3.0, 0.5, 3.0]


def behaviour(rows: Sequence[Sequence[float]] = ROWS, order: Any = ORDER) -> dict[str, Any]:
    """What a run's metrics say of forgetting, as its file has it; chance is 0.1."""
    found = summarize(order, rows, [0.1] * 3) | {"tasks": [0, 1, 2]}
    for position, row in enumerate(found["rows"]):
        row["position"] = position
    loaded: dict[str, Any] = json.loads(json.dumps(found))
    return loaded


def judged(
    forget: float = 0.3,
    retain: float = 0.8,
    signal: float = 0.4,
    js: float | None = 0.2,
    **more: Any,
) -> dict[str, Any]:
    """An audit; the retrained model knows 0.05 of what was forgotten and 0.9 of the rest."""
    known = {
        "unlearned": {"forget_train": {"0": 0.4}, "forget_test": {"0": forget}},
        "retrained": {"forget_train": {"0": 0.0}, "forget_test": {"0": 0.05}},
    }
    known["unlearned"]["retain_test"] = {"1": retain - 0.1, "2": retain + 0.1}
    known["retrained"]["retain_test"] = {"1": 0.8, "2": 1.0}
    peers = {"forget_test": [{"0": 0.05}, {"0": 0.07}], "retain_test": [{"1": 0.8, "2": 1.0}]}
    attack = {"unlearned": 0.6, "retrained": 0.55, "unasked": 0.8, "before": 0.9, "signal": signal}
    reading = {"js": {"value": js, "floor": 0.1, "ratio": None if js is None else js / 0.1}}
    return {
        "by_task": known,
        "peers": peers,
        "gain": -0.02,
        "agreement": {"forget_test": reading, "retain_test": reading},
        "attacks": {"svc_probabilities": attack, "loss": {**attack, "signal": 0.4}},
        "requests": [again(0.5)],
        "cost": {
            **{"seconds": 0.5, "fraction": 0.1, "samples": 40.0, "past_samples": 0},
            "data_handed_over": True,
        },
        "lira": {"score": 0.7, "note": "only 3 pairs", "detail": {"num_pairs": 3}},
    } | more


def again(value: float | None, bound: str = "", *, tasks: Any = (0,), void: bool = False) -> Any:
    """A request of an audit, by how soon what it took was known again."""
    times = {"0.05": {"value": value, "bound": bound}, "0.1": {"value": 0.7, "bound": ""}}
    probe = {"unlearned": 0.75, "retrained": 0.5, "before": 0.9}
    return {"times": times, "probe": probe, "tasks": list(tasks), "void": void}


MakeGroup = Callable[..., Group]


@pytest.fixture
def group(tmp_path: Path) -> MakeGroup:
    """`group("m", (behaviour(), judged()), ...)`: one finished cell a pair, seeds from 0."""

    def make(name: str, *facts: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> Group:
        cells = []
        for seed, (metrics, audit) in enumerate(facts):
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir()
            if audit is not None:
                (folder / "audit.json").write_text(json.dumps(audit))
            spent = [{"index": i, "seconds": s + seed} for i, s in enumerate(SECONDS)]
            told = {"strategy": name, "scenario": "toy", "seed": seed}
            known = {} if metrics is None else {"unlearning": metrics}
            cells.append(Cell(folder.name, folder, "done", None, told, {"spent": spent}, known))
        return Group("toy", Method(name), tuple(cells))

    return make


def records(table: Table, method: str = "m") -> dict[str, Record]:
    return {r["figure"]: r for r in table if r["method"] == method}


def test_every_figure_has_one_record_a_method(group: MakeGroup) -> None:
    groups = [group(name, (behaviour(), judged())) for name in ("m", "other")]
    table = unlearning_table(groups)
    keys = [f.key for f in FIGURES]
    assert len(set(keys)) == len(keys)
    expected = [(m, k) for m in ("m", "other") for k in keys]
    assert [(r["method"], r["figure"]) for r in table] == expected
    assert {r["benchmark"] for r in table} == {"toy"}


def test_numbers_by_hand(group: MakeGroup) -> None:
    found = records(unlearning_table([group("m", (behaviour(), judged()))]))
    expected = {
        "ra": 80.0,  # (0.7 + 0.9) / 2, by the audit's samples
        "worst": 70.0,
        "ra_gap": -10.0,
        "ra_r": 90.0,
        "gain": -2.0,
        "fa": 30.0,
        "fa_r": 5.0,
        "fa_chance": 20.0,
        "fa_gap": 25.0,
        "fa_floor": 2.0,
        "over": 0.0,
        "fa_train": 40.0,
        "fa_train_gap": 40.0,
        "spill": -20.0,  # task 1 at the request
        "relapse": 20.0,  # 0.3 after 0.1
        "late_relapse": None,
        "forgetting": 5.0,  # of task 1, and none of task 2
        "js": 0.2,
        "js_floor": 0.1,
        "js_ratio": 2.0,
        "kl": None,
        "svc": 0.6,
        "svc_r": 0.55,
        "svc_pre": 0.9,
        "svc_o": 0.8,
        "loss": 0.6,
        "lira": 0.7,
        "lira_pairs": 3.0,
        "ain": 0.5,
        "probe": 25.0,
        "seconds": 0.5,
        "fraction": 0.1,
        "samples": 40.0,
        "past": 0.0,
    }
    for key, value in expected.items():
        mean = found[key]["mean"]
        assert mean == (None if value is None else pytest.approx(value)), key
        assert (found[key]["n"], found[key]["nulls"]) == ((0, 1) if value is None else (1, 0)), key
        assert found[key]["std"] is None and found[key]["void"] == 0


def test_the_worst_seed_is_the_bad_end(group: MakeGroup) -> None:
    facts = []
    for end in (0.2, 0.6, 0.4):
        rows = [*ROWS[:3], [end, 0.8, 1 - end]]
        facts.append((behaviour(rows), judged(forget=end, retain=1 - end, js=end)))
    found = records(unlearning_table([group("m", *facts)]))
    assert found["ra"]["worst"] == pytest.approx(40.0), "the lowest"
    assert found["ra_gap"]["worst"] == pytest.approx(-50.0)
    assert found["fa"]["worst"] == pytest.approx(60.0), "the highest"
    assert found["relapse"]["worst"] == pytest.approx(50.0)
    assert found["js"]["worst"] == 0.6
    assert found["fa_gap"]["worst"] is None, "of what should be zero neither end is worse"
    assert found["fa"]["mean"] == pytest.approx(40.0)
    assert found["fa"]["std"] == pytest.approx(20.0)


def test_what_was_never_known_cannot_be_forgotten(group: MakeGroup) -> None:
    unknown = behaviour([[0.15], [0.15, 0.9], [0.1, 0.9], [0.1, 0.9, 0.9]])
    assert unknown["void"] is True
    found = records(unlearning_table([group("m", (unknown, judged()), (behaviour(), judged()))]))
    for key in ("fa", "fa_r", "fa_chance", "fa_gap", "fa_floor", "fa_train"):
        assert (found[key]["n"], found[key]["nulls"], found[key]["void"]) == (1, 1, 1), key
    assert found["fa"]["mean"] == pytest.approx(30.0), "of the seed that knew it"
    assert found["ra"]["n"] == 2


def test_a_model_that_forgot_everything_has_forgotten_nothing_in_particular(
    group: MakeGroup,
) -> None:
    ruined = behaviour([[0.9], [0.8, 0.9], [0.1, 0.1], [0.1, 0.1, 0.12]])
    found = records(unlearning_table([group("m", (ruined, judged()))]))
    assert found["fa"]["mean"] is None and found["fa_gap"]["mean"] is None
    assert found["fa"]["note"] == found["fa_gap"]["note"] == "void" and not found["ra"]["note"]


def test_one_void_request_of_two_leaves_the_other(group: MakeGroup) -> None:
    order = [("L", 0), ("L", 1), ("L", 2), ("U", 0), ("U", 1)]
    rows = [[0.15], [0.15, 0.9], [0.15, 0.9, 0.9], [0.8, 0.9, 0.9], [0.8, 0.2, 0.9]]
    mixed = behaviour(rows, order)
    assert [bool(f["void"]) for f in mixed["forgets"]] == [True, False]
    facts = judged()
    for name, accuracies in (("unlearned", (0.9, 0.2)), ("retrained", (0.0, 0.1))):
        facts["by_task"][name]["forget_test"] = dict(zip("01", accuracies, strict=True))
    found = records(unlearning_table([group("m", (mixed, facts))]))
    assert found["fa"]["mean"] == pytest.approx(20.0) and found["fa"]["void"] == 0
    assert found["fa_chance"]["mean"] == pytest.approx(10.0)
    assert found["fa_r"]["mean"] == pytest.approx(10.0), "of the experience that was known"
    assert found["fa_gap"]["mean"] == pytest.approx(10.0)
    assert found["fa_gap"]["mean"] == found["fa"]["mean"] - found["fa_r"]["mean"]


def test_what_was_learned_again_is_not_forgotten(group: MakeGroup) -> None:
    """Only the second request of the two counts, and there it was hardly known."""
    order = [("L", 0), ("L", 1), ("U", 0), ("L", 0), ("U", 0)]
    rows = [[0.9], [0.9, 0.9], [0.1, 0.9], [0.2, 0.9], [0.1, 0.9]]
    found = records(unlearning_table([group("m", (behaviour(rows, order), judged()))]))
    for key in ("fa", "fa_gap", "fa_chance"):
        assert (found[key]["mean"], found[key]["note"], found[key]["void"]) == (None, "void", 1)


def test_of_single_samples_there_is_the_audit_alone(group: MakeGroup) -> None:
    """Nothing of accuracies by experience is known of such requests, but what models answer is."""
    void = judged(requests=[again(0.5, void=True)])
    found = records(unlearning_table([group("m", (None, judged()), (None, void))]))
    assert found["fa"]["mean"] == pytest.approx(30.0) and found["fa"]["void"] == 1
    assert found["ra"]["n"] == found["js"]["n"] == 2 and found["relapse"]["n"] == 0
    assert requests_table([group("other", (None, judged()))]) == []
    (only,) = views(group("third", (None, judged())))
    assert row_of(only, "FA − FA(r)") == ["25.0"]


def test_less_than_the_retrained_model_knows_is_too_much(group: MakeGroup) -> None:
    facts = [(behaviour(), judged(forget=forget)) for forget in (0.02, 0.035)]
    found = records(unlearning_table([group("m", *facts)]))
    assert found["fa_floor"]["mean"] == pytest.approx(2.0) and found["fa_floor"]["std"] is None
    assert found["over"]["mean"] == 0.5, "3 points under, and 1.5"


def test_limits_have_a_median_and_no_mean(group: MakeGroup) -> None:
    facts = [[again(2.0, ">")], [again(0.5)], [again(0.1, "<"), again(9.0, void=True)]]
    one = group("m", *((behaviour(), judged(requests=r)) for r in facts))
    found = records(unlearning_table([one]))["ain"]
    assert (found["mean"], found["std"], found["median"], found["bound"]) == (None, None, 0.5, "")
    assert found["worst"] == 0.1, "a tenth is farther from 1 than twice"
    assert row_of(views(one)[0], "AIN") == ["0.50 (median) (0.10)"]
    two = group("n", *((behaviour(), judged(requests=r)) for r in (facts[0], facts[0], facts[1])))
    assert row_of(views(two)[0], "AIN") == ["> 2.00 (median) (2.00)"]


def test_an_attack_that_tells_nothing_before_is_uninformative(group: MakeGroup) -> None:
    """Over all seeds: one that it works on by chance is not picked out."""
    blunt, lucky = judged(signal=0.0), judged(signal=0.06)
    one = group("m", (behaviour(), blunt), (behaviour(), lucky))
    found = records(unlearning_table([one]))
    assert [found[k]["note"] for k in ("svc", "svc_r", "svc_pre")] == ["uninformative"] * 3
    assert found["svc"]["n"] == 2 and found["svc"]["mean"] == pytest.approx(0.6)
    assert found["loss"]["note"] == "", "another attack on the same model may tell something"
    assert row_of(views(one)[0], "SVC") == ["uninformative"]
    sharp = group("n", (behaviour(), blunt), (behaviour(), judged()))
    assert row_of(views(sharp)[0], "SVC") == ["0.600 ± 0.000 (0.600)"]


def test_without_an_audit_behaviour_is_left(group: MakeGroup) -> None:
    found = records(unlearning_table([group("m", (behaviour(), None), (behaviour(), None))]))
    known = {key for key, r in found.items() if r["mean"] is not None}
    behaving = {"spill", "spill_sum", "relapse", "forgetting"}
    assert known == {"ra", "worst", "fa", "fa_chance", *behaving}
    assert {r["nulls"] for key, r in found.items() if key not in known} == {2}


def test_an_audit_may_have_gaps(group: MakeGroup) -> None:
    gaps = judged(js=None, gain=None, lira={"score": None, "note": "needs 16 shadow pairs"})
    gaps["requests"] = [
        again(None) | {"probe": {"unlearned": None, "retrained": 0.5, "before": 0.9}},
        again(None) | {"times": {}, "probe": {"unlearned": 0.6, "retrained": 0.5}},
    ]
    gaps["by_task"]["unlearned"]["retain_test"] = {}
    found = records(unlearning_table([group("m", (behaviour(), gaps))]))
    assert {k: found[k]["mean"] for k in ("js", "gain", "lira", "ain", "ra_gap")} == dict.fromkeys(
        ("js", "gain", "lira", "ain", "ra_gap")
    )
    assert found["probe"]["mean"] == pytest.approx(10.0)


def test_an_infinite_distance_is_infinite_in_the_mean_and_the_worst(
    group: MakeGroup, tmp_path: Path
) -> None:
    """A file has it as text."""
    far, near = judged(), judged()
    far["agreement"]["forget_test"]["kl"] = {"value": "inf", "floor": 0.1, "ratio": None}
    near["agreement"]["forget_test"]["kl"] = {"value": 0.2, "floor": 0.1, "ratio": 2.0}
    one = group("m", (behaviour(), far), (behaviour(), near))
    table = unlearning_table([one])
    found = records(table)["kl"]
    assert (found["n"], found["mean"], found["worst"], found["std"]) == (
        2,
        math.inf,
        math.inf,
        None,
    )
    assert row_of(views(one)[0], "KL") == ["∞ (∞)"]
    written = json.loads(write_json({"unlearning": table}, tmp_path / "t.json").read_text())
    assert records(written["unlearning"])["kl"]["mean"] == "inf"


def test_who_was_told_to_forget_nothing_has_no_row(group: MakeGroup) -> None:
    groups = [group("plain", (None, None)), group("m", (behaviour(), judged()))]
    assert {r["method"] for r in unlearning_table(groups)} == {"m"}
    assert {r["method"] for r in requests_table(groups)} == {"m"}
    assert unlearning_table(groups[:1]) == requests_table(groups[:1]) == []


def test_each_request_has_a_row(group: MakeGroup) -> None:
    more = behaviour([[0.7], [0.8, 0.7], [0.3, 0.7], [0.3, 0.6, 0.9]])
    table = requests_table([group("m", (behaviour(), None), (more, None))])
    assert [(r["request"], r["name"]) for r in table] == [*enumerate(["L0", "L1", "U0", "L2"])]
    assert [r["retain_accuracy"] for r in table] == pytest.approx([80.0, 80.0, 70.0, 80.0])
    assert [r["forget_accuracy"] for r in table] == [None, None, *map(pytest.approx, (20.0, 30.0))]
    assert [r["signed_spill"] for r in table] == [None, None, pytest.approx(-10.0), None]
    assert [r["peak_relapse"] for r in table] == [None, None, None, pytest.approx(10.0)]
    assert [r["seconds"] for r in table] == pytest.approx([s + 0.5 for s in SECONDS])


def test_seeds_may_have_other_requests(group: MakeGroup) -> None:
    """As where the classes of single samples are drawn by the seed."""
    short = behaviour(ROWS[:2], ORDER[:2])
    table = requests_table([group("m", (behaviour(), None), (short, None))])
    assert [(r["request"], r["name"]) for r in table] == [*enumerate(["L0", "L1", "U0", "L2"])]
    assert [r["seconds"] for r in table] == [4.5, 3.5, 0.5, 3.0]


def test_tasks_have_their_number_in_the_scenario(group: MakeGroup) -> None:
    facts = behaviour() | {"tasks": [3, 5, 9]}
    table = requests_table([group("m", (facts, None))])
    assert [r["name"] for r in table] == ["L3", "L5", "U3", "L9"]


def test_tasks_forgotten_together_are_one_request(group: MakeGroup) -> None:
    order = [("L", 0), ("L", 1), ("L", 2), ("U", [0, 1])]
    facts = behaviour([[0.9], [0.9, 0.9], [0.9, 0.9, 0.9], [0.1, 0.3, 0.8]], order)
    *_, row = requests_table([group("m", (facts, None))])
    assert row["name"] == "U0,1" and row["forget_accuracy"] == pytest.approx(20.0)
    assert row["signed_spill"] == pytest.approx(-10.0), "of what is held alone"


def test_seconds_are_those_of_the_position(group: MakeGroup) -> None:
    """Positions: L0, L1, a request for single samples, which has no row, U0, L2."""
    facts = behaviour()
    for row, position in zip(facts["rows"], (0, 1, 3, 4), strict=True):
        row["position"] = position
    one = group("m", (facts, None))
    spent = [{"index": i, "seconds": s} for i, s in enumerate([4.0, 3.0, 60.0, 0.5, 3.0])]
    one.cells[0].record.update(spent=spent)
    found = [r["seconds"] for r in requests_table([one])]
    assert found == [4.0, 3.0, 0.5, 3.0]


# -- what is shown ---------------------------------------------------------------------------


def views(*groups: Group) -> list[Any]:
    return unlearning_views(unlearning_table(groups), requests_table(groups), "toy")


def row_of(view: Any, head: str) -> list[str]:
    (row,) = [r for r in view.rows if r[0] == head]
    return row[1:-1]


def test_methods_stand_beside_each_other(group: MakeGroup) -> None:
    a = group("a", (behaviour(), judged()), (behaviour(), judged(forget=0.5)))
    b = group("b", (behaviour(), judged()))
    whole, requests = views(a, b)
    assert whole.title == "toy: unlearning" and list(whole.head) == ["", "a", "b", "what"]
    assert row_of(whole, "RA ↑") == ["80.0 ± 0.0 (80.0)", "80.0 (80.0)"]
    assert row_of(whole, "JS floor") == ["0.100", "0.100"], "one number, whatever the seeds"
    table = unlearning_table([a])
    assert records(table, "a")["given"]["note"] == "yes" and records(table, "a")["given"]["n"] == 2
    assert row_of(whole, "FA − FA(r)") == ["35.0 ± 14.1", "25.0"]
    assert row_of(whole, "spill") == ["−20.0 ± 0.0 (−20.0)", "−20.0 (−20.0)"]
    assert row_of(whole, "JS") == ["0.200 ± 0.000 (0.200)", "0.200 (0.200)"]
    assert not [r for r in whole.rows if r[0] == "KL"], "no row for what nobody has"
    assert list(requests.head) == ["method", "L0", "L1", "U0", "L2"]
    shown = ["90 / –", "85 / –", "70 / 10", "85 / 30"]
    assert requests.rows == [["a", *shown], ["b", *shown]]


def test_what_is_void_or_missing_is_said(group: MakeGroup) -> None:
    void = behaviour([[0.15], [0.15, 0.9], [0.1, 0.9], [0.1, 0.9, 0.9]])
    groups = [
        group("none", (void, judged()), (void, judged())),
        group("some", (void, judged()), (behaviour(), judged())),
        group("bare", (behaviour(), None)),
    ]
    whole, _ = views(*groups)
    assert row_of(whole, "FA") == ["void", "30.0 (30.0) n=1", "30.0 (30.0)"]
    assert row_of(whole, "FA − FA(r)") == ["void", "25.0 n=1", "–"]
    assert row_of(whole, "JS") == ["0.200 ± 0.000 (0.200)", "0.200 ± 0.000 (0.200)", "–"]


def test_a_benchmark_without_requests_shows_nothing(group: MakeGroup) -> None:
    assert views(group("plain", (None, None))) == []
    one = group("m", (behaviour(), judged()))
    assert unlearning_views(unlearning_table([one]), requests_table([one]), "other") == []
