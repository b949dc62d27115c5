"""Dealing a data set out: labels, tasks, uids, validation, limits, and no trace in global RNGs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from clframe.errors import ConfigError, DataError
from clframe.sources import Draw, Images, by_classes, by_views, forked_rng


@pytest.fixture
def images() -> Images:
    """Six classes of ten training and four test samples, interleaved; a pixel tells its row."""
    train_y, test_y = torch.arange(6).repeat(10), torch.arange(6).repeat(4)
    train_x = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 1, 2, 2).contiguous()
    test_x = train_x[:24] + 100
    names = tuple("abcdef")
    return Images(train_x, train_y, test_x, test_y, (0.5,), (0.25,), names)


def test_labels_count_the_classes_in_the_order_in_which_they_come(images: Images) -> None:
    streams = by_classes(images, ((3, 0), (5, 1), (2, 4)), Draw())
    assert set(streams.samples) == {"train", "test"} and streams.class_order == (3, 0, 5, 1, 2, 4)
    assert streams.class_names == ("d", "a", "f", "b", "c", "e")
    for part, first, y in (("train", 0, images.train_y), ("test", 60, images.test_y)):
        for e, samples in enumerate(streams.samples[part]):
            assert samples.y.unique().tolist() == [2 * e, 2 * e + 1]
            rows = samples.uid - first
            assert torch.equal(torch.tensor(streams.class_order)[samples.y], y[rows])
            assert torch.equal(samples.x[:, 0, 0, 0].long(), rows + 100 * (part == "test"))
            assert samples.x.dtype == torch.uint8 and not samples.task.any()


def test_tasks_number_the_experiences_and_domains_restart_the_labels(images: Images) -> None:
    groups = ((3, 0), (5, 1), (2, 4))
    tasks = by_classes(images, groups, Draw(), setting="task").samples["test"]
    assert [s.task.unique().tolist() for s in tasks] == [[0], [1], [2]]
    domains = by_classes(images, groups, Draw(), setting="domain")
    assert [s.y.unique().tolist() for s in domains.samples["train"]] == [[0, 1]] * 3
    assert domains.class_order == (3, 0, 5, 1, 2, 4) and domains.class_names == ()
    first = domains.samples["train"][1]
    assert torch.equal(torch.tensor([5, 1])[first.y], images.train_y[first.uid])


def test_a_class_may_come_in_several_experiences(images: Images) -> None:
    groups = ((3, 0), (0, 5), (3, 5))
    streams = by_classes(images, groups, Draw(), portion=0.5)
    assert streams.class_order == (3, 0, 5) and streams.class_names == ("d", "a", "f")
    train, test = streams.samples["train"], streams.samples["test"]
    assert [s.y.unique().tolist() for s in train] == [[0, 1], [1, 2], [0, 2]]
    assert [torch.bincount(s.y).tolist() for s in train] == [[5, 5], [0, 5, 5], [5, 0, 5]]
    assert [len(s) for s in test] == [8, 8, 8]
    zeros = [s.uid[s.y == 1].tolist() for s in test[:2]]
    assert zeros[0] == zeros[1]
    domains = by_classes(images, groups, Draw(), setting="domain").samples["train"]
    for samples, group in zip(domains, groups, strict=True):
        assert torch.equal(torch.tensor(group)[samples.y], images.train_y[samples.uid])


def test_validation_is_stratified_and_apart_and_the_limit_comes_after_it(images: Images) -> None:
    groups = ((0, 1, 2), (3, 4, 5))
    whole = by_classes(images, groups, Draw(0.2, None, 1)).samples
    few = by_classes(images, groups, Draw(0.2, 3, 1)).samples
    for e in range(2):
        assert torch.bincount(whole["val"][e].y)[3 * e :].tolist() == [2] * 3
        assert torch.bincount(whole["train"][e].y)[3 * e :].tolist() == [8] * 3
        assert torch.bincount(few["train"][e].y)[3 * e :].tolist() == [3] * 3
        assert torch.equal(few["val"][e].uid, whole["val"][e].uid)
        held, kept = set(whole["val"][e].uid.tolist()), set(whole["train"][e].uid.tolist())
        assert not held & kept and set(few["train"][e].uid.tolist()) < kept
    other = by_classes(images, groups, Draw(0.2, 3, 2)).samples
    assert not torch.equal(other["val"][0].uid, whole["val"][0].uid)


def test_views_show_the_same_samples_under_uids_of_their_own(images: Images) -> None:
    streams = by_views(images, [lambda x: x, lambda x: 255 - x], Draw(0.1, 5))
    assert streams.setting == "domain" and streams.class_names == tuple("abcdef")
    for part in ("train", "val", "test"):
        plain, turned = streams.samples[part]
        assert torch.equal(turned.x, 255 - plain.x) and torch.equal(turned.y, plain.y)
        assert torch.equal(turned.uid, plain.uid + 84)
    uids = torch.cat([s.uid for parts in streams.samples.values() for s in parts])
    assert len(uids.unique()) == len(uids)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1.5, None, 0), "val_share=1.5"),
        ((0.0, 0, 0), "train_limit=0: expected at least 1"),
        ((0.0, -5, 0), "train_limit=-5: expected at least 1"),
        ((0.0, None, -1), "seed=-1"),
    ],
)
def test_a_draw_checks_its_options(arguments: tuple[float, int | None, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Draw(*arguments)


def test_a_class_without_samples_is_named(images: Images) -> None:
    lacking = images.train_y != 4
    poor = Images(
        images.train_x[lacking], images.train_y[lacking], images.test_x, images.test_y,
        images.mean, images.std, images.class_names,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"the train part .* no samples of some class of: e, f"):
        by_classes(poor, ((0, 1, 2, 3), (4, 5)), Draw())
    with pytest.raises(ConfigError, match=r"setting='tasks'.*Did you mean 'task'"):
        by_classes(images, ((0,),), Draw(), setting="tasks")


def test_a_fork_hides_every_draw_and_seed() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index,union-attr]
    with pytest.raises(KeyError), forked_rng():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        raise KeyError
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index,union-attr]
    assert before == after
