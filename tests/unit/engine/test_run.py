"""A run end to end: which rows it writes, what it records, and how it fails."""

from __future__ import annotations

import json

import pytest
import torch

import clframe
from clframe.config.identity import from_yaml
from clframe.core.losses import cross_entropy
from clframe.core.strategy import Strategy
from clframe.engine.results import flatten
from clframe.engine.run import run_cell
from clframe.engine.session import Run
from clframe.evaluation.metrics import summarize
from clframe.tracking.journal import frames
from tests.conftest import MakeCell

BOUNDARIES = [8, 14, 20]  # 4, 3 and 3 classes of 16 samples, in batches of 8


def test_rows_follow_the_schedule(make_cell: MakeCell) -> None:
    store = make_cell("strategy=fine_tune", "eval.rho=2", "eval.dense=2")
    assert run_cell(store.folder) == 0
    rows = store.read_trace("net/seen").to_pylist()
    # 1, 1+rho, ..., the first two, and the last of each
    assert sorted({r["iteration"] for r in rows}) == [
        *(0, 1, 2, 3, 5, 7, 8),
        *(9, 10, 11, 13, 14),
        *(15, 16, 17, 19, 20),
    ]
    for r in rows:  # a class not seen yet has no row where only seen classes count
        assert r["eval_experience"] <= r["train_experience"]
    every = store.read_trace("net/all").to_pylist()
    at_boundaries = {r["iteration"] for r in every if r["eval_experience"] > r["train_experience"]}
    assert at_boundaries == {0, 8, 14}
    assert {r["total"] for r in every} == {30}


def test_boundaries_are_on_the_full_test_sets(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay")
    assert run_cell(store.folder) == 0
    rows = store.read_boundary("net/task").to_pylist()
    assert [r["iteration"] for r in rows] == [t for t in (0, *BOUNDARIES) for _ in range(3)]
    sizes = [e["eval_size"] for e in store.read_record().data["experiences"]]
    assert [r["total"] for r in rows] == sizes * 4
    assert min(sizes) > 30


def test_accuracies_are_those_of_the_model(make_cell: MakeCell) -> None:
    store = make_cell("strategy=er_ace")
    run = Run(from_yaml(store.config_path), store, True)
    run.all()
    strategy = run.strategy.eval()
    rows = {r["eval_experience"]: r for r in store.read_boundary("net/seen").to_pylist()[-3:]}
    for e in run.stream:
        with torch.no_grad():
            guess = strategy.predict(e.eval.x, None).argmax(1)
        assert rows[e.index]["correct"] == int((guess == e.eval.y).sum())


def test_metrics_are_the_functions_of_the_files(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay")
    assert run_cell(store.folder) == 0
    columns = ("iteration", "train_experience", "eval_experience", "accuracy")

    def rows(table: str) -> list[tuple[float, ...]]:
        read = {"trace": store.read_trace, "boundary": store.read_boundary}[table]
        return [tuple(r[c] for c in columns) for r in read("net/seen").to_pylist()]

    dense, full = summarize(rows("trace")), summarize(rows("boundary"))
    metrics = json.loads(store.metrics_path.read_text())
    assert metrics.keys() == dense.keys()
    for key in ("gap", "min_acc_final", "wc_acc_curve", "wf", "avg_anytime_acc"):
        assert metrics[key] == json.loads(json.dumps(dense[key]))
    for key in ("R", "acc_final", "bwt", "forg_by_boundary", "learning_acc"):
        assert metrics[key] == full[key]
    record = store.read_record()
    assert record.status == "done"
    assert record.metrics == flatten(metrics)
    assert record.iteration == 20 and record.cost["samples"] == 160
    assert record.cost["memory_bytes"] > 0
    assert abs(sum(record.seconds[k] for k in ("train", "evaluate", "other"))
               - record.seconds["total"]) < 1e-6  # fmt: skip


def test_curves_in_the_journal_equal_the_metrics(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay")
    assert run_cell(store.folder) == 0
    metrics = store.read_metrics()
    curves: dict[str, list[float]] = {}
    for frame in frames(store.journal_path):
        if frame.kind == "metrics":
            for i, key in enumerate(frame.arrays["keys"].tolist()):
                column = frame.arrays["values"][:, i]
                curves.setdefault(key, []).extend(column[frame.arrays["iteration"] > 0].tolist())
    first = metrics["boundaries"][0]
    assert curves["min_acc"][first:] == pytest.approx(metrics["min_acc_curve"][first:])
    assert curves["wc_acc"] == pytest.approx(metrics["wc_acc_curve"])
    assert curves["avg_acc"] == pytest.approx(metrics["aa_curve"])
    assert len(curves["loss/total"]) == 20


def test_references_are_their_boundaries(make_cell: MakeCell) -> None:
    store = make_cell("strategy=joint", "epochs=8", "optim.lr=0.2")
    assert run_cell(store.folder) == 0
    metrics = store.read_metrics()
    assert metrics["boundaries"] == [64, 176, 336]  # 8 x (64, 112, 160) samples in batches of 8
    assert metrics["eval_iterations"] == metrics["boundaries"]
    assert metrics["gap"] is None and metrics["min_acc_final"] is None
    assert metrics["acc_final"] > 0.5
    record = store.read_record()
    assert record.reference == "joint"
    assert record.cost["past_samples"] == 64 + 112


def test_a_trained_strategy_comes_back(make_cell: MakeCell) -> None:
    store = make_cell("strategy=derpp", "net.head=cosine")
    run = Run(from_yaml(store.config_path), store, True)
    run.all()
    again = clframe.load_run(store.folder)
    x = run.stream.experiences[0].eval.x
    with torch.no_grad():
        assert torch.equal(again.predict(x, None), run.strategy.eval().predict(x, None))
    assert not again.training


@pytest.mark.parametrize("setting", ["task", "domain"])
def test_other_settings(make_cell: MakeCell, setting: str) -> None:
    words = [f"options.split_digits.setting={setting}", "options.split_digits.experiences=5"]
    if setting == "domain":  # as many classes in each
        words += ["options.split_digits.base=2", "options.split_digits.increment=2"]
    store = make_cell("strategy=replay", *words)
    assert run_cell(store.folder) == 0
    record, metrics = store.read_record(), store.read_metrics()
    assert record.primary == ("net/task" if setting == "task" else "net/seen")
    assert metrics["fwt"] is not None  # there are outputs for experiences to come
    assert record.data["num_classes"] == (10 if setting == "task" else 2)


def test_a_growing_head_has_no_forward_transfer(make_cell: MakeCell) -> None:
    store = make_cell("strategy=derpp", "net.growing=true", "epochs=8", "optim.lr=0.2")
    assert run_cell(store.folder) == 0
    for readout in ("net/all", "net/task"):
        for r in store.read_trace(readout).to_pylist():
            assert r["eval_experience"] <= r["train_experience"]
    assert store.read_metrics()["acc_final"] > 0.3


def test_forgotten_experiences_leave_the_metrics(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", "requests=L0 L1 F0 L2")
    run = Run(from_yaml(store.config_path), store, True)
    seen: list[int] = []
    forget = run.strategy.forget

    def spy(exp):  # type: ignore[no-untyped-def]
        before = set(run.strategy.memory.column("uid").tolist())
        forget(exp)
        seen.extend(before - set(run.strategy.memory.column("uid").tolist()))

    run.strategy.forget = spy  # type: ignore[method-assign]
    run.all()
    own = set(run.stream.experiences[0].train.uid.tolist())
    assert seen and set(seen) <= own
    rows = store.read_trace("net/all").to_pylist()
    assert {r["eval_experience"] for r in rows} == {0, 1, 3}
    assert {r["train_experience"] for r in rows} == {0, 1, 2, 3}
    store2 = make_cell("strategy=replay", "requests=L0 L1 F0 L2", name="whole")
    assert run_cell(store2.folder) == 0
    assert store2.read_metrics()["n_experiences"] == 2


def test_a_loss_that_is_not_finite_stops_the_cell(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self, batch):  # type: ignore[no-untyped-def]
        value = cross_entropy(self.net(batch.x), batch.y)
        return {"new": value, "odd": value * float("nan")}

    monkeypatch.setattr(Strategy, "loss", loss)
    store = make_cell("strategy=fine_tune")
    assert run_cell(store.folder) == 1
    record = store.read_record()
    assert record.status == "failed"
    assert record.error is not None
    assert "'odd' is nan at iteration 1" in record.error


def test_diagnostics_become_series(make_cell: MakeCell) -> None:
    every = 'eval.diagnostics=["feature_drift","gradient_norm","decomposition"]'
    store = make_cell("strategy=replay", every)
    assert run_cell(store.folder) == 0
    values: dict[str, list[float]] = {}
    for frame in frames(store.journal_path):
        if frame.kind == "metrics":
            for i, key in enumerate(frame.arrays["keys"].tolist()):
                values.setdefault(key, []).extend(frame.arrays["values"][:, i].tolist())
    assert len(values["feature_drift/exp_00"]) == 20 and len(values["feature_drift/exp_02"]) == 6
    assert min(values["feature_drift/exp_00"]) > 0
    assert len(values["gradient_norm/exp_00"]) == 20
    assert values["gradient/stability"][0] == 0  # the memory was empty
    assert values["gradient/stability"][1] > 0
    assert len(values["gradient/total"]) == 20
