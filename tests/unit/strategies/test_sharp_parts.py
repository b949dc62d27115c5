"""SHARP's parts by the numbers of its note: selection, rewiring, codes, contrast, votes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clframe.core.backbones import BACKBONES
from clframe.core.losses import pair_contrast
from clframe.core.memory import Archive, decode, encode, quota
from clframe.core.neighbours import Group, vote
from clframe.core.net import Net
from clframe.core.rng import clock, generator
from clframe.core.sparse import SparseChain, rewire
from clframe.errors import ConfigError
from tests.unit.strategies.methods import build

sharp = importlib.import_module("clframe.strategies.sharp")


@pytest.mark.parametrize(
    ("q", "units"), [(50, [0]), (75, [0, 1]), (80, [0, 1]), (81, [0, 1, 2]), (100, [0, 1, 2, 3])]
)
def test_property_1_selection(q: float, units: list[int]) -> None:
    activity = torch.tensor([5.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    assert sharp.most_active(activity, q).nonzero().flatten().tolist() == units
    assert sharp.most_active(activity.flip(0), q).sum() == len(units)


def test_property_1_the_share_falls_with_the_phases() -> None:
    found = [sharp.tau(t, 30) for t in (2, 10, 15)]
    assert found == pytest.approx([0.989074, 0.75, 0.5], abs=1e-6)


def test_a_layer_without_activity_recruits_no_more_than_one() -> None:
    assert sharp.most_active(torch.zeros(4), 90).tolist() == [True, False, False, False]


def test_property_2_rewiring() -> None:
    links = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    source, target = torch.tensor([1, 0, 2]), torch.tensor([1, 0])
    new, missing = rewire(links, source, target, generator(0))
    assert new.int().tolist() == [[1, 0, 0], [1, 1, 1]] and missing == 0


def test_too_little_room_is_told() -> None:
    links = torch.ones(2, 3).bool()
    new, missing = rewire(links, torch.tensor([0, 0, 2]), torch.tensor([1, 0]), generator(0))
    assert new.int().tolist() == [[0, 0, 1], [1, 1, 1]] and missing == 2


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ([(1, 0), (2, 0), (0, 1), (0, 3)], 0.239545),
        ([(1, 0), (0.6, 0.8), (0, 1), (0.8, 0.6)], 1.270714),
    ],
)
def test_property_3_contrast(z: list[tuple[float, float]], expected: float) -> None:
    rows, y = torch.tensor(z, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    losses = pair_contrast(rows, y, torch.arange(4), rows, y, 0.5)
    assert losses.mean().item() == pytest.approx(expected, abs=5e-6)  # the guard of the norms


def test_property_4_codes_and_quota() -> None:
    values = torch.tensor([[0.0], [0.5], [1.0], [2.0]])
    made = encode(values, torch.zeros(4).long())
    assert made["codes"].flatten().tolist() == [0, 64, 128, 255]
    back = decode(**made)
    assert back.flatten().tolist() == pytest.approx([0, 0.501961, 1.003922, 2], abs=1e-6)
    assert (back - values).abs().max() <= 2 / 510 + 1e-6  # met exactly at 1
    assert quota(10, 4) == [3, 3, 2, 2]


def test_codes_are_scaled_by_class_and_a_constant_has_one() -> None:
    values = torch.tensor([[3.0, 3.0], [0.0, 10.0], [3.0, 3.0], [-5.0, 0.0]])
    made = encode(values, torch.tensor([7, 1, 7, 1]))
    assert torch.equal(decode(**made)[[0, 2]], values[[0, 2]]) and made["codes"][0].sum() == 0
    assert made["low"].tolist() == [3, -5, 3, -5] and made["high"].tolist() == [3, 10, 3, 10]


def test_draws_are_as_many_of_each_class_and_distinct_where_possible() -> None:
    archive = Archive()
    y = torch.tensor([4] * 5 + [1] * 2 + [9] * 5)
    archive.append(y=y, uid=torch.arange(12))
    clock.set(0, 1)
    rows = archive.draw_classes(10)
    assert y[rows].tolist() == [1] * 4 + [4] * 3 + [9] * 3
    assert len(rows[4:].unique()) == 6 and set(rows[:4].tolist()) <= {5, 6}
    assert archive.draw_classes(10).tolist() != rows.tolist()
    assert y[archive.draw_classes(2)].tolist() == [1, 4]


A, B = (1.0, 0.0, 9.0), (9.0, 0.6, 0.8)
QUERY = torch.tensor([[0.8, 0.6, 0.0]])


def group(rows: list[Any], y: list[int], units: tuple[int, ...] = (1, 1, 1)) -> Group:
    return Group.of(torch.tensor(rows), torch.tensor(y), torch.tensor(units).bool())


def test_property_5_masked_neighbours() -> None:
    groups = [group([A], [0], (1, 1, 0)), group([B], [1], (0, 1, 1))]
    distances = [g.distances(QUERY).item() for g in groups]
    assert distances == pytest.approx([0.632456, 0.894427], abs=1e-5)
    assert vote(QUERY, groups, 1, 3).argmax(1).item() == 0
    nothing = group([A], [0], (1, 1, 0)).distances(torch.zeros(1, 3))
    assert nothing.item() == pytest.approx(1, abs=1e-6), "an all-zero query is at the origin"


def directions(*degrees: float) -> list[Any]:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin(), 0 * angle], 1).tolist()


def test_the_majority_of_all_near_rows_wins_and_ties_go_to_the_smaller_label() -> None:
    old = group(directions(1, 50, 60), [3, 4, 4])
    new = group(directions(2, 3, 80), [1, 1, 0])
    query = torch.tensor(directions(0))
    scores = vote(query, [old, new], 3, 6)
    assert scores.argmax(1).item() == 1 and scores[0, 2] == scores[0, 5] == -1
    own = torch.tensor([[-torch.inf] * 3 + [0.0, 0.0, -torch.inf]])
    assert (scores + own).argmax(1).item() == 4, "among themselves, the two of class 4 outvote"
    assert vote(query, [old, new], 3, 6, pooled=False).max() < 1
    assert vote(query, [group(directions(1, -1), [2, 1])], 5, 3).argmax(1).item() == 1


def chain(**options: Any) -> tuple[nn.Module, SparseChain]:
    clock.set(0, 0)
    backbone, _ = BACKBONES["vgg"]((1, 8, 8), blocks=[[4], [6]], hidden=[10, 5])
    return backbone, SparseChain(backbone, options.pop("early", None), (2, 3), 0.6, **options)


def test_behind_a_flatten_a_channel_is_a_source_for_each_of_its_places() -> None:
    backbone, units = chain()
    layer = units[2]
    assert layer.links.shape == (10, 6 * 4) and units.cut == 7
    units.recruit([torch.ones(4), torch.tensor([1, 0, 1, 1, 1, 1]), torch.ones(10), torch.ones(5)])
    layer.links.fill_(True)
    units.rewire()
    assert not layer.links[:, 4:8].any() and layer.links[:, :4].all() and layer.links[:, 8:].all()
    assert not backbone[7].weight[:, 4:8].any()


def test_kernels_are_there_or_not_as_a_whole_and_the_first_convolution_has_them_all() -> None:
    backbone, units = chain()
    assert units[0].links.all() and not units[1].links.all()
    nonzero = backbone[3].weight != 0
    assert torch.equal(nonzero.all((2, 3)), units[1].links)
    assert torch.equal(nonzero.any(2).any(2), units[1].links)


def test_early_layers_that_are_kept_stay_dense_and_untrained() -> None:
    backbone, units = chain(kept=True)
    clock.set(0, 0)  # the seed of the net, too
    same, _ = BACKBONES["vgg"]((1, 8, 8), blocks=[[4], [6]], hidden=[10, 5])
    for i in (0, 3):
        assert torch.equal(backbone[i].weight, same[i].weight)
        assert not backbone[i].weight.requires_grad
    assert units[1].links.all() and not units[2].links.all()


BAD: dict[str, Tensor | nn.Module] = {
    "BatchNorm1d": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)),
    "Dropout": nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2), nn.ReLU()),
    "1 layers": nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
    "2 layers, 1 ReLUs": nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_net_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"net.name: .*{name}.*net.name=mlp, cnn, lenet or vgg"):
        build("sharp", 2, Net(BAD[name], 2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("phases", 0),
        ("phase_epochs", 0),
        ("m", -1),
        ("replay_size", 0),
        ("sparsity", 1.0),
        ("cut", 2),
        ("kappa", 0),
        ("q_min", 101),
        ("temperature", 0.0),
        ("lr", 0.0),
        ("weight_decay", float("nan")),
        ("k", 0),
        ("store", "pixels"),
    ],
)
def test_options_are_checked(option: str, value: Any) -> None:
    backbone, width = BACKBONES["mlp"]((4,), hidden=3)
    with pytest.raises(ConfigError, match=f"^{option}: "):
        build("sharp", 2, Net(backbone, width, 2), **{option: value})
