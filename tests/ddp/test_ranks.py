"""Two ranks train as one process: the same losses, trace and weights, for every strategy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clframe.engine.run import run_cell
from clframe.grid.check import check
from clframe.grid.differences import difference, distance, losses_apart
from clframe.grid.supervise import supervise
from clframe.registry import plugins
from clframe.tracking.store import RunStore
from tests.conftest import prepare_cell

KNOWN = plugins("strategy").items()
STRATEGIES = sorted(n + "+replay" * p.is_wrapper for n, p in KNOWN if not p.only_forgets)
STEPLESS = {"acu"}  # it has no loss to compare
OWN = {"uncle": ("options.uncle={widths: [16, 16], chunks: 8}",)}
FORGET = ("requests=L0 L1 U0 L2", "forget_data=true")
REPLAY = "strategy=replay"
NORMS = (REPLAY, "net.name=slim_resnet18", "net.args.width=4", "net.augment=true")
SMALL_STEPS = "optim.lr=0.0005"  # through batch norm, rounding grows by the size of the updates
CASES = {name: (f"strategy={name}", "optim.momentum=0.9") for name in STRATEGIES} | {
    **{n: (f"strategy={n}+replay", *FORGET) for n, p in KNOWN if p.only_forgets},
    "acu": ("strategy=acu", *FORGET),
    "uncle": ("strategy=uncle", *FORGET, *OWN["uncle"]),
    "batch norm": NORMS,
    "frozen": (*NORMS, "net.freeze=true", "eval.budget=31"),
    "forgetting": (REPLAY, "requests=L0 L1 F0 L2"),
    "class-balanced memory": (REPLAY, "options.replay.policy=class_balanced"),
    "pairs of samples": ("strategy=pcr", "options.pcr.pair_mode=all", "batch_size=9"),
    "shares that differ": ("strategy=hpcr", "batch_size=9", "optim.lr=0.01"),
    "twice on each batch": ("strategy=hpcr", "options.hpcr.repeats=2", *NORMS[1:], SMALL_STEPS),
    "a wrapper around pairs": (
        "strategy=refresh_paper+hpcr",
        "options.hpcr.pair_mode=one",
        "options.refresh_paper.delta=0.001",
        "options.refresh.ascents=2",
        "net.name=cnn",
        SMALL_STEPS,
    ),
    "all blocks": ("strategy=ilora", "net.name=vit", "options.ilora.embedding=all_blocks"),
    "pre-trained": (REPLAY, "net.pretrain.epochs=2"),
    "drawn features": (
        "strategy=fetril",
        "options.fetril.selection=rand",
        "options.fetril.neg_ratio=2.0",
    ),
    "softmax of features": ("strategy=fetril", "options.fetril.head=fc"),
    "adamw, clipped": (REPLAY, "optim.name=adamw", "optim.lr=0.002", "clip=0.5"),
}
Trained = Callable[..., Path]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """`trained(ranks, word, ...)`: the folder of a finished run on so many ranks."""

    def train(ranks: int, *words: str, status: str = "done") -> Path:
        name = f"{len(list(tmp_path.iterdir()))}-on-{ranks}"
        store = prepare_cell(tmp_path / name, "accelerator=cpu", f"devices={ranks}", *words)
        if ranks == 1:  # here, where all is imported
            assert run_cell(store.folder) == 0
            return store.folder
        outcome = supervise(store.folder, None)
        assert outcome.status == status, outcome.error
        return store.folder

    return train


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(trained: Trained, case: str) -> None:
    """In double precision over the whole stream; ranks agree, or the run would have failed."""
    one, two = (trained(n, *CASES[case], "precision=64") for n in (1, 2))
    assert distance(one, two) is None
    counted = [RunStore(folder).read_record().counting for folder in (one, two)]
    assert counted[0]["fallback"] is counted[1]["fallback"] is None


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s not in STEPLESS])
def test_single_precision_begins_alike(trained: Trained, strategy: str) -> None:
    more = ("options.split_digits.train_limit=60", *OWN.get(strategy, ()))
    one, two = (trained(n, f"strategy={strategy}", *more) for n in (1, 2))
    assert losses_apart(one, two, 1e-5, updates=50) is None


def test_three_ranks_whose_shares_differ(trained: Trained) -> None:
    """A batch of 7 is 3, 2 and 2 rows, and at the end of an epoch some rank has none."""
    words = (*NORMS, "batch_size=7", "precision=64", "options.split_digits.train_limit=17")
    words += ("optim.lr=0.01",)  # at the usual one, rounding has grown to 2e-9 by update 26
    assert distance(trained(1, *words), trained(3, *words)) is None


def test_a_sharded_memory_is_the_same_memory(trained: Trained) -> None:
    words = (REPLAY, "requests=L0 L1 F0 L2", "options.replay.capacity=31")
    whole, parts = trained(2, *words), trained(2, *words, "memory=sharded")
    assert difference(whole, parts) is None
    room = [RunStore(f).read_record().cost["memory_bytes"] for f in (whole, parts)]
    assert room[1] * 31 == room[0] * 16, "of 31 rows, rank 0 has every other one"


def test_local_batch_norm_is_another_run(trained: Trained) -> None:
    """Each rank normalises by its own rows; they agree, but not with a single process."""
    words = (*NORMS, "precision=64")
    synchronised, local = trained(2, *words), trained(2, *words, "net.batch_norm=local")
    said = distance(synchronised, local)
    assert said is not None and said.startswith("loss/")


def test_an_update_without_a_loss_moves_local_statistics_alike(trained: Trained) -> None:
    """Experiences of one batch: all that the first does is to pass through batch norm."""
    words = (*NORMS[1:], "net.batch_norm=local", "options.split_digits.train_limit=2", "epochs=1")
    trained(2, "strategy=hpcr", *words)  # ranks that differ after it would have failed


@pytest.mark.parametrize("broken", ["Unreduced", "PerRankDraw", "Padded"])
def test_what_is_broken_shows(trained: Trained, broken: str) -> None:
    """The comparison would notice a reduction left out, a draw per rank, a padded sampler."""
    one = trained(1, REPLAY, "precision=64", "batch_size=9")
    two = trained(2, f"strategy=tests.ddp.breaks:{broken}", "precision=64", "batch_size=9")
    assert losses_apart(one, two, 1e-9) is not None


def test_check_deals_out_shares_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """With equal shares the mean of the ranks' means is the global one, and nothing would show."""
    assert check("tests.ddp.breaks:Unreduced", ["batch_size=8"]) == 1
    (said,) = [line for line in capsys.readouterr().out.splitlines() if " spreads " in line]
    assert said.startswith("✗") and "loss/new at update 1 is" in said


def test_ranks_that_drift_apart_are_stopped(trained: Trained) -> None:
    folder = trained(2, "strategy=tests.ddp.breaks:Drifting", status="failed")
    error = RunStore(folder).read_record().error
    assert error is not None and "the ranks no longer agree after experience 0" in error
    assert "'net.backbone" in error and "on rank 1" in error
