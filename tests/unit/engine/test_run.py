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
from clframe.errors import ConfigError
from clframe.evaluation.metrics import summarize
from clframe.tracking.journal import frames
from clframe.tracking.store import RunStore
from tests.conftest import MakeCell
from tests.unit.engine.test_resume import Stop, assert_equal_runs, stop_at

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

    sizes = [e["eval_size"] for e in store.read_record().data["experiences"]]
    tables = ("trace", "boundary")
    dense, full = (summarize(rows(t), kept=range(len(sizes)), sizes=sizes) for t in tables)
    metrics = json.loads(store.metrics_path.read_text())
    assert metrics.keys() == dense.keys()
    for key in ("gap", "min_acc_final", "wc_acc_curve", "wf", "avg_anytime_acc"):
        assert metrics[key] == json.loads(json.dumps(dense[key]))
    for key in ("R", "acc_final", "bwt", "forg_by_boundary", "learning_acc", "pooled_acc_final"):
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
    metrics = store2.read_metrics()
    assert (metrics["n_experiences"], metrics["stages"], metrics["kept"]) == (2, [1, 2, 3], [1, 3])
    primary = store2.read_boundary(store2.read_record().primary).to_pylist()
    at = {(r["train_experience"], r["eval_experience"]): r["accuracy"] for r in primary}
    assert metrics["learning_acc"] == pytest.approx((at[1, 1] + at[3, 3]) / 2)
    assert metrics["forg_final"] == pytest.approx(at[1, 1] - at[3, 1])
    trace = store2.read_trace(store2.read_record().primary).to_pylist()
    one, two = (
        {r["iteration"]: r["accuracy"] for r in trace if r["eval_experience"] == e} for e in (1, 3)
    )
    when = {r["iteration"]: r["train_experience"] for r in trace if r["iteration"]}
    every = [one[t] if k == 1 else (one[t] + two[t]) / 2 for t, k in when.items() if k in (1, 3)]
    assert metrics["avg_anytime_acc"] == pytest.approx(sum(every) / len(every))
    curves = curves_of(store2)
    since = [t for t in metrics["eval_iterations"] if when[t] >= 2]  # then the same are held
    for live, final in (("min_acc", "min_acc_curve"), ("wc_acc", "wc_acc_curve")):
        wanted = dict(zip(metrics["eval_iterations"], metrics[final], strict=True))
        assert [curves[live][t] for t in since] == pytest.approx([wanted[t] for t in since])


def curves_of(store: RunStore) -> dict[str, dict[int, float]]:
    """The curves of a run's journal: by name and update."""
    found: dict[str, dict[int, float]] = {}
    for frame in frames(store.journal_path):
        keys = frame.arrays["keys"].tolist() if frame.kind == "metrics" else []
        for i, key in enumerate(keys):
            pairs = zip(
                frame.arrays["iteration"].tolist(), frame.arrays["values"][:, i], strict=True
            )
            found.setdefault(key, {}).update(pairs)
    return found


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


@pytest.mark.parametrize("precision", ["32", "64"])
def test_diagnostics_become_series(make_cell: MakeCell, precision: str) -> None:
    every = 'eval.diagnostics=["feature_drift","gradient_norm","decomposition"]'
    store = make_cell("strategy=replay", every, f"precision={precision}")
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


@pytest.mark.parametrize("steps", [0, 3])
def test_forgetting_that_changes_predictions_is_an_update(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    def forget(self, exp):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            self.net.head.weight.mul_(0.9)
        return True

    def forget_loss(self, exp, batch):  # type: ignore[no-untyped-def]
        return {"shrink": self.net.head.weight.square().mean()}

    monkeypatch.setattr(Strategy, "forget", forget)
    if steps:
        monkeypatch.setattr(Strategy, "forget_loss", forget_loss)
        budget = lambda self, exp: steps if exp.kind == "forget" else None  # noqa: E731
        monkeypatch.setattr(Strategy, "budget", budget)
    store = make_cell("strategy=clframe.api:Strategy", "requests=L0 L1 F0 L2")
    assert run_cell(store.folder) == 0
    rows = store.read_boundary("net/all").to_pylist()
    forgotten = 14 + 1 + steps
    assert sorted({r["iteration"] for r in rows}) == [0, 8, 14, forgotten, forgotten + 6]
    trace = store.read_trace("net/seen").to_pylist()
    during = {r["iteration"] for r in trace if r["train_experience"] == 2}
    assert during == set(range(15, forgotten + 1))


def test_curves_leave_out_what_was_forgotten(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", "requests=L0 L1 F0 L2")
    assert run_cell(store.folder) == 0
    metrics, last = store.read_metrics(), {}
    for frame in frames(store.journal_path):
        if frame.kind == "metrics":
            for key, value in zip(
                frame.arrays["keys"].tolist(), frame.arrays["values"][-1], strict=True
            ):
                last[key] = value
    assert last["wc_acc"] == pytest.approx(metrics["wc_acc_curve"][-1])
    assert last["avg_acc"] == pytest.approx(metrics["aa_curve"][-1])


def test_an_error_after_the_first_update_loses_nothing(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(self, exp):  # type: ignore[no-untyped-def]
        raise ConfigError("too late to be bad input")

    monkeypatch.setattr(Strategy, "end", end)
    store = make_cell("strategy=fine_tune", "checkpoint=2")
    assert run_cell(store.folder) == 1
    assert store.checkpoint_path.exists() and store.read_record().status == "failed"


@pytest.mark.parametrize(
    "words",
    [
        ("precision=64", "scenario=blobs"),
        ("precision=bf16", "optim.name=adamw", "optim.lr=0.001", "clip=1.0"),
        ("precision=64", "optim.schedule=step", "optim.milestones=[0.5]", "optim.warmup=2"),
        ("net.name=timm:test_resnet", "net.growing=true", "net.head=cosine"),
        (
            "net.name=timm:test_vit",
            "optim.name=adamw",
            "optim.lr=0.001",
            'net.args={"patch_size":4}',
        ),
        ("net.name=slim_resnet18", "net.args.width=4", "batch_size=21"),  # leaves one of 64 over
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_training_as_configured(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    whole = make_cell("strategy=derpp", *words, name="whole")
    assert run_cell(whole.folder) == 0, whole.read_record().error
    parts = make_cell("strategy=derpp", *words, "checkpoint=1", name="parts")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stop):
            run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)
    trained = torch.load(whole.checkpoint_path, weights_only=True)["strategy"]
    for key, value in clframe.load_run(whole.folder).state_dict().items():
        if torch.is_tensor(value):
            assert value.dtype == trained[key].dtype and torch.equal(value, trained[key]), key


def test_a_loss_that_is_no_dict_is_explained(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strategy, "loss", lambda self, b: cross_entropy(self.net(b.x), b.y))
    store = make_cell("strategy=fine_tune")
    assert run_cell(store.folder) == 1
    assert "FineTune.loss returned a Tensor; return a dict" in str(store.read_record().error)


def test_a_data_root_that_is_not_there_is_refused(make_cell: MakeCell) -> None:
    store = make_cell("strategy=fine_tune", "data.root=/no/such/folder")
    assert run_cell(store.folder) == 2
    assert "is no folder; mend it" in str(store.read_record().error)
