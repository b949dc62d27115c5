"""From scenarios to streams: the fast way and the slow one, renumbering, settings, and errors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from clframe.core.experience import Samples, Scenario, Stream
from clframe.data.samples import to_samples
from clframe.data.stream import build_stream
from clframe.errors import ConfigError, PluginError
from clframe.sources import Draw, Images, by_classes

avalanche: Any = pytest.importorskip("avalanche.benchmarks")


@pytest.fixture
def images() -> Images:
    g = torch.Generator().manual_seed(0)
    train_y, test_y = torch.arange(6).repeat(10), torch.arange(6).repeat(4)
    x = torch.randint(0, 256, (84, 1, 2, 2), generator=g, dtype=torch.uint8)
    return Images(x[:60], train_y, x[60:], test_y, (0.5,), (0.25,), tuple("abcdef"))


def made(images: Images, setting: str = "class", val_share: float = 0.2) -> Scenario:
    groups = ((3, 0), (5, 1), (2, 4))
    return by_classes(images, groups, Draw(val_share), setting=setting).scenario(avalanche)


class Items:
    """A data set of (x, y) pairs that nobody knows, as a user's benchmark may hold."""

    def __init__(self, x: Any, y: list[int]) -> None:
        self.x, self.targets = x, y

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.x[i], self.targets[i]


def bare(
    parts: list[tuple[Any, list[int]]], tests: list[tuple[Any, list[int]]] | None = None
) -> Any:
    utils = avalanche.utils

    def data(x: Any, y: list[int]) -> Any:
        return utils.AvalancheDataset(
            [Items(x, y)], data_attributes=[utils.DataAttribute(y, "targets")]
        )

    streams = {"train": parts, "test": tests or parts}
    return avalanche.benchmark_from_datasets(
        **{name: [data(*p) for p in each] for name, each in streams.items()}
    )


def same(a: Samples, b: Samples) -> bool:
    return all(torch.equal(getattr(a, c), getattr(b, c)) for c in ("x", "y", "task", "uid"))


def test_a_scenario_becomes_its_own_tensors_again(images: Images) -> None:
    streams = by_classes(images, ((3, 0), (5, 1), (2, 4)), Draw(0.2), setting="task")
    scenario = streams.scenario(avalanche, online=True)
    for split in ("test", "val"):
        stream = build_stream("mine", scenario, split=split)  # type: ignore[arg-type]
        assert (stream.name, stream.setting, stream.online) == ("mine", "task", True)
        assert stream.num_classes == 6 and stream.class_order == (3, 0, 5, 1, 2, 4)
        assert (stream.mean, stream.std) == ((0.5,), (0.25,)) and stream.class_names == tuple(
            "dafbce"
        )
        for e, exp in enumerate(stream):
            assert (exp.index, exp.origin, exp.kind, exp.tasks) == (e, e, "learn", (e,))
            assert exp.classes == (2 * e, 2 * e + 1)
            assert same(exp.train, streams.samples["train"][e])
            assert same(exp.eval, streams.samples[split][e])
            assert exp.train.x.data_ptr() == streams.samples["train"][e].x.data_ptr(), "copied"


def test_the_slow_way_gives_what_the_fast_one_gives(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = build_stream("mine", made(images))
    monkeypatch.setattr("clframe.data.samples._gather", lambda dataset: None)
    slow = build_stream("mine", made(images))
    assert fast.describe() == slow.describe()
    for a, b in zip(fast, slow, strict=True):
        assert same(a.train, b.train) and same(a.eval, b.eval)


def test_subsets_and_unions_are_gathered_by_uid(images: Images) -> None:
    parts = [exp.dataset for exp in made(images).benchmark.train_stream]
    both = parts[1].subset([7, 0, 3]).concat(parts[0].subset([5, 2]))
    found = to_samples(both, "here")
    wanted = torch.tensor(
        [
            int(u)
            for d, rows in ((parts[1], [7, 0, 3]), (parts[0], [5, 2]))
            for u in torch.tensor(list(d.uid))[rows]
        ]
    )
    assert torch.equal(found.uid, wanted)
    assert torch.equal(found.x, images.train_x[wanted])
    assert [int(both[i][1]) for i in range(5)] == found.y.tolist()


def test_a_transform_on_top_is_not_bypassed(images: Images) -> None:
    dataset = made(images).benchmark.train_stream[0].dataset
    groups = {name: lambda x: 255 - x for name in ("train", "eval")}
    flipped = avalanche.utils.AvalancheDataset(
        [dataset], transform_groups=avalanche.utils.TransformGroups(groups)
    )
    plain, changed = to_samples(dataset, "here"), to_samples(flipped, "here")
    assert torch.equal(changed.x, 255 - plain.x) and torch.equal(changed.uid, plain.uid)


def test_a_bare_benchmark_is_renumbered_by_first_appearance() -> None:
    x = torch.randn(6, 3)
    stream = build_stream("mine", bare([(x, [4, 2, 4, 2, 2, 4]), (x, [0, 2, 9, 0, 9, 9])]))
    assert stream.setting == "class" and stream.num_classes == 4
    assert stream.class_order == (2, 4, 0, 9)
    assert [e.classes for e in stream] == [(0, 1), (0, 2, 3)]
    assert stream.experiences[0].train.y.tolist() == [1, 0, 1, 0, 0, 1]
    assert stream.experiences[1].eval.y.tolist() == [2, 0, 3, 2, 3, 3]
    uids = torch.cat([s.uid for e in stream for s in (e.train, e.eval)])
    assert sorted(uids.tolist()) == list(range(24))
    assert stream.mean is None and stream.experiences[0].train.x.dtype == torch.float32


def test_a_scenarios_own_words_follow_the_renumbering() -> None:
    x = torch.randn(4, 3)
    told = Scenario(
        bare([(x, [2, 1, 2, 1]), (x, [0, 0, 0, 0])]),
        class_order=(7, 8, 9),
        class_names=tuple("xyz"),
    )
    stream = build_stream("mine", told)
    assert stream.class_order == (8, 9, 7) and stream.class_names == ("y", "z", "x")


@pytest.mark.parametrize(
    ("ys", "setting"),
    [([[0, 1], [0, 1]], "domain"), ([[0, 1]], "class"), ([[0, 1], [1, 2]], "class")],
)
def test_the_setting_of_a_bare_benchmark_is_inferred(ys: list[list[int]], setting: str) -> None:
    stream = build_stream("mine", bare([(torch.randn(2, 3), y) for y in ys]))
    assert stream.setting == setting
    assert [e.tasks for e in stream] == [(0,)] * len(ys)


def test_task_labels_make_a_bare_benchmark_task_incremental() -> None:
    x = torch.randn(2, 3)
    benchmark = avalanche.task_incremental_benchmark(bare([(x, [0, 1]), (x, [2, 3])]))
    stream = build_stream("mine", benchmark)
    assert stream.setting == "task"
    assert [e.eval.task.tolist() for e in stream] == [[0, 0], [1, 1]]


def test_other_task_labels_are_refused() -> None:
    utils = avalanche.utils
    labels = [utils.TaskLabels([5, 5]), utils.DataAttribute([0, 1], "targets")]
    dataset = utils.AvalancheDataset([Items(torch.randn(2, 3), [0, 1])], data_attributes=labels)
    benchmark = avalanche.benchmark_from_datasets(train=[dataset], test=[dataset])
    with pytest.raises(PluginError, match=r"task labels \[\[5\]\]; expected experience i"):
        build_stream("mine", benchmark)


def test_one_test_set_serves_all_experiences_and_another_number_does_not() -> None:
    x = torch.randn(2, 3)
    parts = [(x, [0, 1])] * 3
    stream = build_stream("mine", bare(parts, tests=[(x + 1, [0, 1])]))
    assert len(stream) == 3
    assert len({e.eval.x.data_ptr() for e in stream}) == 1
    with pytest.raises(PluginError, match=r"3 experiences in its train stream but 2 in its test"):
        build_stream("mine", bare(parts, tests=parts[:2]))


def test_images_arrays_and_doubles_become_tensors() -> None:
    from PIL import Image

    grey = [Image.new("L", (5, 4), 7), Image.new("L", (5, 4), 9)]
    colour = [Image.new("RGB", (5, 4), (1, 2, 3))] * 2
    for inputs, shape, dtype in (
        (grey, (1, 4, 5), torch.uint8),
        (colour, (3, 4, 5), torch.uint8),
        (np.zeros((2, 3)), (3,), torch.float32),
        ([[1.0, 2.0], [3.0, 4.0]], (2,), torch.float32),
        (torch.zeros(2, 3, dtype=torch.int64), (3,), torch.int64),
    ):
        stream = build_stream("mine", bare([(inputs, [0, 1])]))
        assert stream.shape == shape and stream.experiences[0].train.x.dtype == dtype
    rgb = build_stream("mine", bare([(colour, [0, 1])])).experiences[0].train.x
    assert rgb[0, :, 0, 0].tolist() == [1, 2, 3]


def test_avalanches_plain_transforms_are_used_not_its_random_ones() -> None:
    from torchvision.transforms import RandomErasing

    utils = avalanche.utils
    data = Items(torch.ones(8, 1, 8, 8), [0, 1] * 4)
    groups = {"train": RandomErasing(p=1.0), "eval": lambda x: x * 2}
    dataset = utils.make_avalanche_dataset(
        data,
        data_attributes=[utils.DataAttribute(data.targets, "targets")],
        transform_groups=utils.TransformGroups(groups),
    )
    before = torch.get_rng_state()
    stream = build_stream(
        "mine", avalanche.benchmark_from_datasets(train=[dataset], test=[dataset])
    )
    assert torch.equal(stream.experiences[0].train.x, torch.full((8, 1, 8, 8), 2.0))
    always = utils.make_avalanche_dataset(
        data,
        data_attributes=[utils.DataAttribute(data.targets, "targets")],
        transform_groups=utils.TransformGroups({"train": None, "eval": RandomErasing(p=1.0)}),
    )
    with pytest.raises(PluginError, match=r"another one each time.*net.augment=true"):
        build_stream("mine", avalanche.benchmark_from_datasets(train=[always], test=[always]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (
            [torch.ones(2), torch.ones(3)],
            [0, 1],
            r"inputs of several shapes, such as \(2,\) and \(3,\)",
        ),
        ([object(), object()], [0, 1], "inputs of type object; expected tensors"),
        ([], [], "experience 0 of its train stream has no samples"),
    ],
)
def test_data_that_cannot_become_tensors_is_named(x: Any, y: list[int], says: str) -> None:
    with pytest.raises(PluginError, match=says):
        build_stream("mine", bare([(x, y)]))


def test_what_is_no_benchmark_is_named() -> None:
    with pytest.raises(PluginError, match=r"'mine' returned TensorDataset without a train_stream"):
        build_stream("mine", TensorDataset(torch.ones(1)))
    with pytest.raises(PluginError, match="returned NoneType"):
        build_stream("mine", None)


def test_validation_that_was_not_held_out_is_asked_for(images: Images) -> None:
    with pytest.raises(ConfigError, match=r"eval.split=val.*options.mine.val_share=0.1"):
        build_stream("mine", made(images, val_share=0.0), split="val")


def test_avalanches_own_validation_stream_is_found() -> None:
    x = torch.randn(20, 3)
    benchmark = avalanche.benchmark_with_validation_stream(bare([(x, [0, 1] * 10)]), 0.5)
    assert len(build_stream("mine", benchmark, split="val").experiences[0].eval) == 10


def test_building_moves_no_global_generator(images: Images) -> None:
    def states() -> Any:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index,union-attr]

    before = states()
    stream: Stream = build_stream("mine", made(images))
    assert len(stream) == 3 and states() == before
