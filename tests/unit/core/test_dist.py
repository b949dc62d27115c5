"""Two processes (gloo) against one: what they gather, sum, average and draw is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp

from clframe.core import dist
from clframe.errors import PeersLost
from tests.unit.core import ranks

Outputs = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """What the two ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(ranks.work, args=(2, str(folder)), nprocs=2)
    return read(folder / "0.pt"), read(folder / "1.pt")


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def test_ranks_know_each_other(both: Outputs) -> None:
    assert both[0]["world"] == (2, 0) and both[1]["world"] == (2, 1)
    assert both[0]["sizes"] == both[1]["sizes"] == [3, 4]
    for out in both:
        assert out["total"].tolist() == [3.0, 20.0]


def test_parts_cover_everything_once_and_differ_by_at_most_one(both: Outputs) -> None:
    for n, (a, b) in enumerate(zip(both[0]["parts"], both[1]["parts"], strict=True)):
        assert a[0] == 0 and a[1] == b[0] and b[1] == n
        assert 0 <= (a[1] - a[0]) - (b[1] - b[0]) <= 1


def test_gather_keeps_order_dtype_and_unequal_sizes(both: Outputs) -> None:
    for dtype in ranks.DTYPES:
        for taken in ranks.TAKEN:
            expected = torch.cat([ranks.table(n, 2 * r, dtype) for r, n in enumerate(taken)])
            for out in both:
                got = out["gathered"][str(dtype), taken]
                assert got.dtype == dtype and torch.equal(got, expected), (dtype, taken)


LOSSES = ["cross_entropy", "mean_squared_error", "distillation", "mean_grad"]
LOSSES += ["proxy_contrast", "pair_contrast", "proxy_distillation", "relation_distillation"]


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_means_are_the_global_ones(both: Outputs, name: str) -> None:
    """4 rows on one rank and 3 on the other: the mean of the ranks' means would be wrong."""
    single = ranks.losses(slice(0, 7))[name]
    assert single.abs().max() > 0.01
    assert torch.equal(both[0]["losses"][name], both[1]["losses"][name])
    torch.testing.assert_close(both[0]["losses"][name], single, rtol=1e-5, atol=1e-7)


def test_mean_over_a_rank_without_rows(both: Outputs) -> None:
    """Rank 0 has none, rank 1 two ones: their average is the global mean, 1."""
    assert (both[0]["empty_mean"] + both[1]["empty_mean"]) / 2 == 1


def test_memory_is_one_and_draws_are_its_slices(both: Outputs) -> None:
    single = ranks.memory(slice(0, 7))
    for state in (out[kind]["state"] for kind in ("memory", "shards") for out in both):
        for key, value in single["state"].items():
            same = torch.equal(state[key], value) if key != "_extra_state" else state[key] == value
            assert same, key
    for kind in ("memory", "shards"):
        rows = zip(single["drawn"], both[0][kind]["drawn"], both[1][kind]["drawn"], strict=True)
        for whole, first, second in rows:
            assert len(first["uid"]) == -(-len(whole["uid"]) // 2)
            for column, value in whole.items():
                assert torch.equal(value, torch.cat([first[column], second[column]]))
    assert (both[0]["memory"]["room"], both[0]["shards"]["room"]) == ([5], [3])


def test_columns_travel_together(both: Outputs) -> None:
    for case, taken in enumerate(ranks.TAKEN):
        for dtype in ranks.DTYPES:
            expected = torch.cat([ranks.table(n, 2 * r, dtype) for r, n in enumerate(taken)])
            for out in both:
                got = out["together"][case][str(dtype)]
                assert got.dtype == dtype and torch.equal(got, expected), (dtype, taken)


def test_ranks_may_settle_on_one_thing(both: Outputs) -> None:
    for out in both:
        assert out["global_size"] == 7
        assert out["agreed"] == (5, [5, 6])


def test_augmentation_is_one_draw_for_all(both: Outputs) -> None:
    whole = ranks.views(slice(0, 7))
    assert torch.equal(whole, torch.cat([both[0]["views"], both[1]["views"]]))


def test_batch_norm_statistics_are_averaged(both: Outputs) -> None:
    for key, value in both[0]["norms"].items():
        assert torch.equal(value, both[1]["norms"][key])
    apart = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = torch.nn.BatchNorm1d(3)
        module(torch.randn(8, 3))
        apart.append(module.running_mean)
    assert not torch.equal(apart[0], apart[1])
    torch.testing.assert_close(both[0]["norms"]["0.running_mean"], (apart[0] + apart[1]) / 2)


def test_nothing_to_average(both: Outputs) -> None:
    for out in both:
        assert out["no_grads"] is None
        assert out["mixed"][0].tolist() == [[0.0, 0.0, 0.0]]


def test_whose_fault_an_error_is(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, own = RuntimeError("[gloo] Connection closed by peer"), RuntimeError("out of memory")
    assert not dist.lost(closed), "alone there is nobody to lose"
    assert dist.lost(td.DistStoreError("nobody came")) and dist.lost(PeersLost("gone"))
    monkeypatch.setattr(dist, "world", lambda: 2)
    assert dist.lost(closed) and not dist.lost(own) and not dist.lost(OSError("connection"))


def test_one_process_is_the_plain_operation() -> None:
    x = torch.randn(4, 3)
    assert (dist.world(), dist.rank(), dist.part(5)) == (1, 0, slice(0, 5))
    assert dist.gather(x) is x and dist.total(x) is x and dist.sizes(x[:4]) == [4]
    assert torch.equal(dist.mean(x[:, 0]), x[:, 0].mean())
    before = x.clone()
    dist.average_gradients([x])
    assert torch.equal(x, before)
