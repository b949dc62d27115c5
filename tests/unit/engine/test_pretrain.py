"""Pre-training on the first experience: what it reads, who shares it, how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clframe.config.identity import from_yaml
from clframe.config.load import load_run
from clframe.engine import pretrain
from clframe.engine.build import make_stream
from clframe.engine.run import run_cell
from clframe.engine.session import Run
from clframe.errors import ConfigError
from tests.conftest import MakeCell
from tests.unit.engine.test_resume import Stop, assert_equal_runs, stop_at

HOW = ("net.pretrain.epochs=15", "net.pretrain.batch_size=16", "net.pretrain.optim.lr=0.2")


def test_the_first_experience_alone_is_learned(make_cell: MakeCell) -> None:
    store = make_cell("strategy=fine_tune", *HOW)
    cfg = from_yaml(store.config_path)
    stream = make_stream(cfg)
    made = pretrain.pretrained(cfg, stream, store.folder.parent, torch.device("cpu"))
    assert made["facts"]["pretrain_updates"] == 15 * 4  # 4 classes of 16 samples
    assert made["facts"]["pretrain_accuracy"] > 0.8
    for later in stream.learned[1:]:  # nobody may look at them
        later.train.x.zero_()
    (path,) = store.folder.parent.glob(".pretrained-*.pt")
    path.unlink()
    again = pretrain.pretrained(cfg, stream, store.folder.parent, torch.device("cpu"))
    assert all(torch.equal(v, again["backbone"][k]) for k, v in made["backbone"].items())


def test_the_run_starts_from_it_and_says_so(make_cell: MakeCell) -> None:
    store = make_cell("strategy=replay", *HOW)
    run = Run(from_yaml(store.config_path), store, True)
    start = {k: v.clone() for k, v in run.strategy.net.backbone.state_dict().items()}
    assert all(torch.equal(v, run.pretraining["backbone"][k]) for k, v in start.items())
    run.all()
    cost = store.read_record().cost
    assert cost["pretrain_updates"] == 60 and 0 < cost["pretrain_accuracy"] <= 1


def test_runs_share_what_they_agree_on(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = pretrain._train
    monkeypatch.setattr(pretrain, "_train", lambda *a: trained.append(1) or real(*a))
    for name, words in {
        "a": ("strategy=fine_tune", *HOW),
        "b": ("strategy=replay", "optim.lr=0.01", *HOW),
        "c": ("strategy=fine_tune", "seed=1", *HOW),
        "d": ("strategy=fine_tune", *HOW, "net.pretrain.optim.lr=0.1"),
    }.items():
        assert run_cell(make_cell(*words, name=name).folder) == 0
    assert len(trained) == 3  # b took what a had made


def test_a_backbone_that_will_be_frozen_is_trained_like_any(make_cell: MakeCell) -> None:
    """Its batch norm's statistics, too; and both kinds of run share the file."""
    words = ("net.name=slim_resnet18", "net.args.width=2", "net.pretrain.epochs=1")
    states = []
    for freeze in ("false", "true"):
        store = make_cell("strategy=fine_tune", *words, f"net.freeze={freeze}", name=freeze)
        states.append(Run(from_yaml(store.config_path), store, True).strategy.net.backbone)
    (_,) = store.folder.parent.glob(".pretrained-*.pt")
    assert all(module.get_buffer("1.num_batches_tracked") == 1 for module in states)
    assert all(not p.requires_grad for p in states[1].parameters())


def test_stopped_and_resumed(make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (make_cell("strategy=replay", *HOW, name=n) for n in ("whole", "parts"))
    assert run_cell(whole.folder) == 0
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, 11)
        run_cell(parts.folder)
    assert run_cell(parts.folder) == 0
    assert_equal_runs(whole, parts)


def test_a_loss_that_is_not_finite_is_named(make_cell: MakeCell) -> None:
    store = make_cell("strategy=fine_tune", *HOW, "net.pretrain.optim.lr=1e20")
    assert run_cell(store.folder) == 1
    assert "net.pretrain: the loss is nan; lower net.pretrain.optim.lr" in str(
        store.read_record().error
    )
    assert not list(store.folder.parent.glob(".pretrained-*.pt"))


def test_weights_of_a_runs_checkpoint(make_cell: MakeCell) -> None:
    first = make_cell("strategy=fine_tune", name="first")
    assert run_cell(first.folder) == 0
    store = make_cell("strategy=replay", f"net.weights={first.checkpoint_path}", name="second")
    run = Run(from_yaml(store.config_path), store, True)
    saved = torch.load(first.checkpoint_path, weights_only=True)["strategy"]
    for key, value in run.strategy.net.backbone.state_dict().items():
        assert torch.equal(value, saved[f"net.backbone.{key}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("net.pretrain.epochs=0",), "net.pretrain.epochs = 0"),
        (("net.pretrain.epoch=1",), "net.pretrain.epoch.*Did you mean.*epochs"),
        (("net.pretrain.epochs=1", "net.weights=a.pt"), "net.pretrain.*net.weights excludes it"),
    ],
)
def test_bad_settings(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        load_run(["strategy=fine_tune", "scenario=split_digits", *words])
