"""A user's own images: both layouts, sizes, and what is said of folders that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clframe.errors import ConfigError, DataError
from clframe.sources import load_image_folder
from tests import raw_files


def test_a_single_set_is_split_by_its_seed_with_every_class_on_both_sides(tmp_path: Path) -> None:
    raw_files.write_image_folder(tmp_path)
    images = load_image_folder(tmp_path, 16)
    assert images.train_x.shape == (16, 3, 16, 16) and images.train_x.dtype == torch.uint8
    assert torch.bincount(images.train_y).tolist() == [4] * 4
    assert torch.bincount(images.test_y).tolist() == [1] * 4
    assert images.class_names == ("class_0", "class_1", "class_2", "class_3")
    again, other = load_image_folder(tmp_path, 16), load_image_folder(tmp_path, 16, seed=1)
    assert torch.equal(images.test_x, again.test_x)
    half = load_image_folder(tmp_path, 16, test_share=0.5)
    assert len(half.test_y) == 8 and len(other.test_y) == 4


@pytest.mark.parametrize("part", ["test", "val"])
def test_parts_of_their_own_are_kept(tmp_path: Path, part: str) -> None:
    raw_files.write_image_folder(tmp_path / "train", per_class=3)
    raw_files.write_image_folder(tmp_path / part, per_class=2)
    images = load_image_folder(tmp_path, 8)
    assert len(images.train_y) == 12 and len(images.test_y) == 8
    colour = torch.tensor(raw_files.pixels(2, 3).astype(int))
    assert (images.train_x[6, :, 4, 4].int() - colour).abs().max() <= 4
    floats = images.train_x.double() / 255
    assert images.mean == pytest.approx(floats.mean((0, 2, 3)).tolist())
    assert images.std == pytest.approx(floats.std((0, 2, 3), correction=0).tolist())


def test_test_wins_over_val_and_other_files_are_no_images(tmp_path: Path) -> None:
    for part, per_class in (("train", 3), ("test", 2), ("val", 1)):
        raw_files.write_image_folder(tmp_path / part, per_class=per_class)
    (tmp_path / "train" / "class_0" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    images = load_image_folder(tmp_path, 8)
    assert len(images.train_y) == 12 and len(images.test_y) == 8


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a folder.*Expected <path>/<class>"):
        load_image_folder(tmp_path / "nowhere", 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        load_image_folder(tmp_path / "empty", 8)
    (tmp_path / "half" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"half/a holds no images"):
        load_image_folder(tmp_path / "half", 8)
    raw_files.write_image_folder(tmp_path / "uneven" / "train", classes=3)
    raw_files.write_image_folder(tmp_path / "uneven" / "test", classes=2)
    with pytest.raises(DataError, match=r"same classes; only one of them has class_2"):
        load_image_folder(tmp_path / "uneven", 8)
    raw_files.write_image_folder(tmp_path / "one", per_class=1)
    with pytest.raises(DataError, match=r"test part of .*one: class 0 has one sample"):
        load_image_folder(tmp_path / "one", 8)
    raw_files.write_image_folder(tmp_path / "bad")
    (tmp_path / "bad" / "class_1" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"0\.png cannot be read as an image"):
        load_image_folder(tmp_path / "bad", 8)
    for size in (0, -3, "64"):
        with pytest.raises(ConfigError, match="size="):
            load_image_folder(tmp_path / "bad", size)  # type: ignore[arg-type]
    for test_share in (0.0, 1.0):
        with pytest.raises(ConfigError, match="test_share="):
            load_image_folder(tmp_path / "bad", 8, test_share=test_share)
