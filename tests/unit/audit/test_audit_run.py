"""The audit of a real grid, small enough to train here: who is judged, by what, what is told."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from clframe.audit import agreement, attacks
from clframe.audit import run as audit_run
from clframe.audit.bench import Bench, Case
from clframe.audit.evidence import Evidence, Part, answers, gather
from clframe.audit.judge import judge as judge_with
from clframe.audit.run import audit
from clframe.config.companions import Audit, retrained, unasked
from clframe.config.grid import load_grid
from clframe.config.identity import run_id, to_yaml
from clframe.config.load import load_run
from clframe.config.requests import never_learned, read_requests
from clframe.config.schema import RunConfig
from clframe.core.experience import Experience, Samples, Stream
from clframe.data.stream import splice
from clframe.engine.build import make_stream
from clframe.engine.load import load_run as model
from clframe.engine.run import run_cell
from clframe.errors import ConfigError
from clframe.grid.runner import run_grid
from clframe.report import Report, build
from clframe.report.load import load_grid as read
from clframe.tracking.store import RunRecord, RunStore
from tests.conftest import small_words

GRID = """
name: gone
axes: {strategy: [replay, discard+replay], scenario: [split_digits], seed: [0, 1, 2]}
base:
  epochs: 3
  batch_size: 16
  requests: L0 L1 U0 L2
  net: {args: {hidden: 16}}
  optim: {lr: 0.2}
  eval: {subset: 30}
  track: {enabled: false}
options:
  split_digits: {base: 4, increment: 3, train_limit: 16, seed: 0}
audit: {samples: 60, relearn_steps: 3, recovery: [1], attack_samples: 30}
"""
SMALL = Audit(samples=60, relearn_steps=3, recovery=[1], attack_samples=30)


def judge(case: Case) -> dict[str, Any]:
    return judge_with(case, Bench(case, SMALL))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Report]:
    """The grid's folder with its first audit, what running it said, and its report."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "grid.yaml").write_text(GRID)
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert run_grid(load_grid(folder / "grid.yaml"), folder / "runs", console=console) == 0
    grid = folder / "runs" / "gone"
    assert audit(grid) == 0
    return grid, said.getvalue(), build(grid)


@pytest.fixture
def grid(judged: tuple[Path, str, Report], tmp_path: Path) -> Path:
    """A copy of the grid's folder, to change."""
    return Path(shutil.copytree(judged[0], tmp_path / "gone"))


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells judged from now on; they are told nothing."""
    cells: list[str] = []

    def spy(case: Case, bench: Bench) -> dict[str, Any]:
        assert bench.audit == SMALL
        cells.append(case.folder.name)
        return {}

    monkeypatch.setattr(audit_run, "judge", spy)
    return cells


def cells_of(grid: Path) -> tuple[list[Path], list[Path]]:
    """The folders of the grid's own cells, and of their companions."""
    spec = load_grid(grid / "grid.yaml")
    own, beside = ([grid / run_id(c) for c in found] for found in (spec.cells(), spec.companions()))
    return own, beside


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


# -- a grid and its companions ---------------------------------------------------------------


def test_companions_are_run_with_the_grid(judged: tuple[Path, str, Report]) -> None:
    grid, said, _ = judged
    own, beside = cells_of(grid)
    assert len(own) == len(beside) == 6, "both methods have the same: retrained and never asked"
    assert {p.parent for p in grid.glob("*/config.yaml")} == {*own, *beside}
    assert {RunStore(p).state() for p in (*own, *beside)} == {"done"}
    assert "6 more runs for the audit: retrained, and never asked" in said
    assert "12 cells: 12 done" in said
    assert {p.parent for p in grid.glob("*/before-2.ckpt")} == set(own)


def test_every_cell_that_was_told_to_forget_is_judged(judged: tuple[Path, str, Report]) -> None:
    own, beside = cells_of(judged[0])
    assert all((p / "audit.json").is_file() for p in own)
    assert not any((p / "audit.json").exists() for p in beside)
    for path in own:
        found = json.loads((path / "audit.json").read_text())
        assert found.keys() == {
            *("by_task", "peers", "gain", "agreement", "attacks", "requests"),
            *("confidence", "cost", "lira", "asked"),
        }
        assert [(r["position"], r["name"]) for r in found["requests"]] == [(2, "U0")]
        assert len(found["requests"][0]["curves"]["unlearned"]) == 4
        assert found["agreement"]["forget_test"]["js"]["floor"] > 0, "of three seeds"
        assert found["lira"]["detail"]["num_pairs"] == 3


def test_a_second_call_judges_nothing(
    grid: Path, again: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_text() for p in grid.glob("*/audit.json")}
    assert audit(grid) == 0
    assert again == [] and "audit: 6 runs, 0 to judge" in capsys.readouterr().out
    assert {p: p.read_text() for p in grid.glob("*/audit.json")} == before


def folder_of(grid: Path, strategy: str, seed: int, order: str) -> Path:
    """The folder of a run by what it was told."""
    for path in grid.glob(f"split_digits-{strategy}-s{seed}-*"):
        stream = RunStore(path).read_record().data["experiences"]
        told = [f"{'L' if e['kind'] == 'learn' else 'U'}{e['origin']}" for e in stream]
        if told == order.split():
            return path
    raise LookupError(order)


@pytest.mark.parametrize(
    ("strategy", "order", "due"),
    [
        ("discard+replay", "L0 L1 U0 L2", {("discard+replay", 1)}),
        ("replay", "L0 L1 L2", {("replay", 1), ("discard+replay", 1)}),  # never asked
        ("replay", "L1 L2", {(m, s) for m in ("replay", "discard+replay") for s in range(3)}),
    ],
    ids=["itself", "unasked", "retrained"],
)
def test_a_model_that_has_changed_makes_due_who_is_judged_by_it(
    grid: Path, again: list[str], strategy: str, order: str, due: set[tuple[str, int]]
) -> None:
    change(folder_of(grid, strategy, 1, order) / "last.ckpt")
    assert audit(grid) == 0
    assert set(again) == {folder_of(grid, m, s, "L0 L1 U0 L2").name for m, s in due}
    assert len(again) == len(due)


def test_a_cell_whose_companion_is_missing_is_reported(
    grid: Path, again: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = folder_of(grid, "replay", 2, "L0 L1 L2")
    own, _ = cells_of(grid)
    shutil.rmtree(lost)
    for path in own:
        change(path / "last.ckpt")
    assert audit(grid) == 1
    said = capsys.readouterr().out
    for strategy in ("replay", "discard+replay"):
        name = folder_of(grid, strategy, 2, "L0 L1 U0 L2").name
        assert f"not judged: {name}: {lost.name} not done" in said
        assert name not in again
    assert len(again) == 4, "the others are judged all the same"


def test_a_companion_that_failed_is_not_done(
    grid: Path, again: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = folder_of(grid, "replay", 0, "L1 L2")
    RunStore(lost).update_record(status="failed")
    assert audit(grid) == 1
    assert capsys.readouterr().out.count(f"{lost.name} not done") == 2


def test_what_went_wrong_is_told_and_the_rest_goes_on(
    grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = cells_of(grid)
    for path in own[:2]:
        (path / "audit.json").unlink()

    def fails(case: Case, bench: Bench) -> dict[str, Any]:
        if case.folder == own[0]:
            raise ValueError("no such number")
        return {}

    monkeypatch.setattr(audit_run, "judge", fails)
    assert audit(grid) == 1
    said = capsys.readouterr().out
    assert f"failed: ValueError: no such number  {own[0].name}" in said
    assert not (own[0] / "audit.json").exists() and (own[1] / "audit.json").exists()


def test_a_cell_that_could_not_be_judged_again_stays_due(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was told before of another model is gone, too."""
    cell = folder_of(grid, "replay", 1, "L0 L1 U0 L2")
    change(folder_of(grid, "replay", 1, "L0 L1 L2") / "last.ckpt")
    (cell / "before-2.ckpt").unlink()
    assert audit(grid) == 1
    assert not (cell / "audit.json").exists()
    assert audit(grid) == 1
    assert "audit: 6 runs, 1 to judge" in capsys.readouterr().out


def test_half_a_file_is_judged_again(grid: Path, again: list[str]) -> None:
    cell = folder_of(grid, "replay", 1, "L0 L1 U0 L2")
    (cell / "audit.json").write_text("{")
    assert [f["n"] for f in build(grid).tables["unlearning"] if f["figure"] == "js"] == [2, 3]
    assert audit(grid) == 0 and again == [cell.name]


def test_a_broken_record_is_one_that_is_not_done(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = folder_of(grid, "replay", 0, "L0 L1 L2")
    (lost / "record.json").write_text("{}")
    assert audit(grid) == 1
    assert capsys.readouterr().out.count(f"{lost.name} not done") == 2


def test_other_questions_make_everything_due(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (grid / "grid.yaml").read_text()
    (grid / "grid.yaml").write_text(text.replace("samples: 60", "samples: 50"))
    asked: list[Audit] = []

    def spy(case: Case, bench: Bench) -> dict[str, Any]:
        asked.append(bench.audit)
        return {}

    monkeypatch.setattr(audit_run, "judge", spy)
    assert audit(grid) == 0
    assert asked == [SMALL.model_copy(update={"samples": 50})] * 6
    assert audit(grid) == 0 and len(asked) == 6


def test_workers_find_the_same(grid: Path) -> None:
    before = {p: json.loads(p.read_text()) for p in grid.glob("*/audit.json")}
    for path in before:
        path.unlink()
    assert audit(grid, workers=2) == 0
    for path, found in before.items():
        again = json.loads(path.read_text())
        assert {k: v for k, v in again.items() if k != "cost"} == {
            k: v for k, v in found.items() if k != "cost"
        }


def test_a_grid_that_was_run_without_an_audit_says_what_to_do(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = folder_of(grid, "replay", 0, "L0 L1 U0 L2")
    (cell / "before-2.ckpt").unlink()
    (cell / "audit.json").unlink()
    assert audit(grid) == 1
    said = capsys.readouterr().out
    assert "before-2.ckpt is missing: the run was made without copies=true" in said
    assert "Delete its folder and run the grid again" in said


def test_a_grid_that_does_not_ask_for_it_is_refused(grid: Path) -> None:
    text = (grid / "grid.yaml").read_text()
    (grid / "grid.yaml").write_text(text[: text.index("audit:")])
    with pytest.raises(ConfigError, match="audit is not asked for; add `audit: true`"):
        audit(grid)


def test_attacks_through_others_need_no_judge(grid: Path, again: list[str]) -> None:
    for path in grid.glob("*/audit.json"):
        found = json.loads(path.read_text())
        del found["lira"]
        path.write_text(json.dumps(found))
    assert audit(grid) == 0 and again == []
    assert all("lira" in json.loads(p.read_text()) for p in grid.glob("*/audit.json"))


def test_one_seed_fewer_has_no_attack_through_others(grid: Path) -> None:
    text = (grid / "grid.yaml").read_text()
    lines = [line for line in text.splitlines(keepends=True) if line.strip() != "- 2"]
    (grid / "grid.yaml").write_text("".join(lines))
    assert audit(grid) == 0
    for seed in (0, 1):
        path = folder_of(grid, "replay", seed, "L0 L1 U0 L2") / "audit.json"
        found = json.loads(path.read_text())["lira"]
        assert found["score"] is None and found["note"] == "needs 17 shadow pairs"


# -- the report ------------------------------------------------------------------------------


def test_the_report_has_what_forgetting_did(judged: tuple[Path, str, Report]) -> None:
    grid, _, report = judged
    names = {p.name for p in report.files}
    assert {"unlearning.csv", "requests.csv", "split_digits-relapse.png"} <= names
    with (report.html.parent / "unlearning.csv").open() as file:
        rows = {(r["method"], r["figure"]): r for r in csv.DictReader(file)}
    assert {m for m, _ in rows} == {"replay", "discard+replay"}
    found = [
        json.loads((folder_of(grid, "replay", s, "L0 L1 U0 L2") / "audit.json").read_text())
        for s in range(3)
    ]
    js = [f["agreement"]["forget_test"]["js"]["value"] for f in found]
    row = rows["replay", "js"]
    assert float(row["mean"]) == pytest.approx(np.mean(js)) and row["n"] == "3"
    assert float(row["worst"]) == pytest.approx(max(js))
    assert float(rows["discard+replay", "fa"]["mean"]) == 0.0, "no output is left to be right by"
    page = report.html.read_text()
    assert "<h3>Unlearning" in page and "<h3>Request by request, RA / FA" in page
    assert 'id="split_digits-relapse"' in page


def test_companions_are_no_methods(judged: tuple[Path, str, Report]) -> None:
    grid, _, report = judged
    own, beside = cells_of(grid)
    assert {r["cell"] for r in report.tables["cells"]} == {p.name for p in own}
    assert {r["method"] for r in report.tables["metrics"]} == {"replay", "discard+replay"}
    assert report.summary.startswith("6 of 6 cells finished.")
    assert not any(p.name in report.html.read_text() for p in beside)


def test_a_companion_that_is_not_done_is_told_of_in_the_report(grid: Path) -> None:
    lost = folder_of(grid, "replay", 0, "L1 L2")
    RunStore(lost).update_record(status="failed")
    assert read(grid).warnings == (f"a run that the audit needs is failed: {lost.name}",)


# -- models ----------------------------------------------------------------------------------


def test_a_model_is_no_distance_from_itself(judged: tuple[Path, str, Report]) -> None:
    grid = judged[0]
    folder = folder_of(grid, "replay", 0, "L0 L1 U0 L2")
    cfg = load_grid(grid / "grid.yaml").cells()[0]
    assert run_id(cfg) == folder.name
    found = judge(Case(cfg, folder, folder, folder, (folder, folder)))
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


SPLIT = "options.split_digits"
PAIRS = tuple(f"{SPLIT}.{w}" for w in ("setting=task", "base=2", "increment=2", "experiences=5"))


def test_members_are_what_a_model_has_learned(
    judged: tuple[Path, str, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, seen = judged[0], list[set[int]]()
    real = attacks.run_attacks

    def spy(given: attacks.Sets, **how: Any) -> Any:
        seen.append(set(given.retain_train.task.tolist()))
        return real(given, **how)

    monkeypatch.setattr(attacks, "run_attacks", spy)
    folder = folder_of(grid, "replay", 0, "L0 L1 U0 L2")
    cfg = load_grid(grid / "grid.yaml").cells()[0]
    judge(Case(cfg, folder, folder, folder, (folder,)))
    assert sorted(map(sorted, seen)) == [[1], *[[1, 2]] * 3], "2 was learned after the request"


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
    assert request["name"] == "U0" and found["by_task"]["unlearned"]["forget_test"] == {0: 0.0}


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


# -- evidence --------------------------------------------------------------------------------


def samples(y: Sequence[int], first: int, task: int = 0) -> Samples:
    n = len(y)
    uid = torch.arange(first, first + n)
    return Samples(uid.float()[:, None], torch.tensor(y), torch.full((n,), task), uid)


def stream_of(setting: str = "class") -> Stream:
    """Three experiences of two classes; training uids 0-3, 4-7, 8-11, test uids 100, 101, ..."""
    exps = tuple(
        Experience(
            e, "learn", (e,), (2 * e, 2 * e + 1),
            samples([2 * e, 2 * e + 1] * 2, 4 * e), samples([2 * e, 2 * e + 1], 100 + 2 * e),
            origin=e,
        )
        for e in range(3)
    )  # fmt: skip
    return Stream("toy", exps, 6, setting, tuple(range(6)))  # type: ignore[arg-type]


def asked(requests: Any, setting: str = "class", limit: int = 99) -> Any:
    return gather(splice(stream_of(setting), read_requests(requests)), limit)


def uids(parts: Sequence[Part]) -> list[int]:
    return sorted(u for p in parts for u in p.samples.uid.tolist())


def test_evidence_of_a_whole_task() -> None:
    found = asked("L0 L1 U0 L2")
    (lost,) = found.forgotten
    assert (lost.position, lost.name) == (2, "U0")
    assert uids(found.forget_train) == [0, 1, 2, 3] and uids(found.forget_test) == [100, 101]
    assert uids(found.retain_train) == [*range(4, 12)]
    assert uids(found.retain_test) == [102, 103, 104, 105]
    assert found.emptied == (0, 1) and not found.by_task
    assert {p.classes for p in (*found.forget_test, *found.retain_test)} == {tuple(range(6))}
    assert [p.origin for p in found.retain_train] == [1, 2]
    assert [e.train.uid.tolist() for e in lost.exps] == [[0, 1, 2, 3]]
    assert uids(lost.held_train) == [4, 5, 6, 7] and uids(lost.held_test) == [102, 103]


def test_evidence_of_tasks_with_outputs_of_their_own() -> None:
    found = asked("L0 L1 U0 L2", "task")
    assert found.by_task
    assert [p.classes for p in found.forget_test] == [(0, 1)]
    assert [p.classes for p in found.retain_test] == [(2, 3), (4, 5)]


def test_evidence_of_a_class() -> None:
    found = asked(["L0", "L1", {"forget": {"classes": [1]}}, "L2"])
    assert found.forgotten[0].name == "U0" and found.emptied == (1,)
    assert uids(found.forget_train) == [1, 3] and uids(found.forget_test) == [101]
    assert uids(found.retain_train) == [0, 2, *range(4, 12)]
    assert uids(found.retain_test) == [100, 102, 103, 104, 105]


def test_evidence_of_single_samples() -> None:
    found = asked(["L0", "L1", {"forget": {"uids": [1, 6]}}, "L2"])
    assert found.forgotten[0].name == "U0,1" and found.emptied == ()
    assert uids(found.forget_train) == [1, 6]
    assert uids(found.retain_train) == [u for u in range(12) if u not in (1, 6)]
    tests = uids(found.forget_test), uids(found.retain_test)
    assert sorted([*tests[0], *tests[1]]) == [*range(100, 106)], "none of them in both"
    assert [len(p.samples) for p in found.forget_test] == [1, 1] and {104, 105} <= set(tests[1])
    (lost,) = found.forgotten
    assert uids(lost.held_train) == [0, 2, 3, 4, 5, 7], "experiences touched are held all the same"
    assert not set(uids(lost.held_test)) & set(tests[0])


def test_a_class_forgotten_sample_by_sample_is_not_held() -> None:
    found = asked(["L0", {"forget": {"uids": [1]}}, {"forget": {"uids": [3]}}, "L1"])
    assert found.emptied == (1,)
    assert [uids(f.train) for f in found.forgotten] == [[1], [3]]
    assert uids(found.forget_test) == [100, 101] and uids(found.retain_test) == [102, 103]


def test_classes_forgotten_one_by_one_are_tested_on_one_by_one() -> None:
    requests = ["L0", "L1", {"forget": {"classes": [0]}}, {"forget": {"classes": [1]}}]
    first, second = asked(requests).forgotten
    assert (uids(first.test), uids(second.test)) == ([100], [101])
    assert uids(asked(requests).forget_test) == [100, 101]
    assert uids(second.held_test) == [102, 103] and uids(first.held_test) == [101, 102, 103]


def test_what_was_learned_again_is_held() -> None:
    found = asked("L0 L1 U0 L0 U1")
    assert [f.name for f in found.forgotten] == ["U1"]
    assert uids(found.retain_train) == [0, 1, 2, 3] and uids(found.retain_test) == [100, 101]
    assert found.emptied == (2, 3)


def test_what_is_learned_again_in_part_is_forgotten_in_part() -> None:
    requests = ["L0", "L1", "U0", {"learn": 0, "without": [{"uids": [2]}]}]
    found = asked(requests)
    assert uids(found.forget_train) == [2] and uids(found.retain_train) == [0, 1, 3, 4, 5, 6, 7]


def test_the_retrained_model_saw_nothing_that_was_withdrawn() -> None:
    """Of experiences 0 and 1 the second has sample 3 as well; forgetting 0 withdraws it there."""
    plain = stream_of()
    first, second, third = plain.experiences
    both = Samples.cat([Samples(*first.train.take(torch.tensor([3]))), second.train])
    shared = replace(plain, experiences=(first, replace(second, train=both), third))
    given = read_requests("L0 L1 U0 L2")
    assert given is not None
    gone = {u for e in splice(shared, given) if e.kind == "forget" for u in e.uids}
    learned = splice(shared, never_learned(given))
    assert gone == {0, 1, 2, 3}
    assert not gone & {u for e in learned for u in e.train.uid.tolist()}


def test_what_was_forgotten_twice_is_asked_about_once() -> None:
    found = asked("L0 L1 U0 L0 U0")
    assert uids(found.forget_train) == [0, 1, 2, 3] and uids(found.forget_test) == [100, 101]


def test_a_limit_takes_the_same_samples_of_every_seed_and_method() -> None:
    found, again = asked("L0 L1 U0 L2", limit=2), asked("L0 L1 L2 U0", limit=2)
    assert [len(p.samples) for p in found.retain_train] == [2, 2]
    assert {p.origin: uids([p]) for p in found.retain_train} == {
        p.origin: uids([p]) for p in again.retain_train
    }
    assert uids(found.forget_train) == uids(again.forget_train)
    assert sorted(found.forget_train[0].samples.y.tolist()) == [0, 1], "of each class as many"


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
