from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets.image_folder
from datasets import Loader, TrainSampler, collate
from datasets.folders import class_folders
from datasets.image_folder import ImageFolder, Sample, class_names, open_split
from datasets.size_schedule import training_scales
from datasets.transforms import train_transform


def make(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """Data set `birds` with classes a, b, c in train, and no b in val."""
    for i, name in enumerate(["train/a/1.png", "train/b/1.png", "train/c/1.png", "train/c/2.png"]):
        make(tmp_path / "birds" / name, seed=i)
    for i, name in enumerate(["val/a/1.png", "val/c/1.png"]):
        make(tmp_path / "birds" / name, seed=10 + i)
    return tmp_path


def message_of(*args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        open_split(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_labels_are_positions_in_the_class_list(data):
    train = open_split(data, "birds", "train")
    assert train.classes == ["a", "b", "c"]
    assert train.labels == [0, 1, 2, 2]
    assert [path.relative_to(train.root).as_posix() for path in train.paths] == [*("a/1.png", "b/1.png", "c/1.png", "c/2.png")]
    image, label, index = train[3]
    assert (image.shape, image.dtype, label, index) == ((3, 30, 40), torch.uint8, 2, 3)


@pytest.mark.parametrize("empty_folder", [False, True])
def test_a_class_missing_in_val_shifts_no_label(data, empty_folder):
    if empty_folder:
        (data / "birds/val/b").mkdir()
    train = open_split(data, "birds", "train")
    val = open_split(data, "birds", "val", classes=train.classes)
    assert val.classes == train.classes
    assert [(path.parent.name, label) for path, label in zip(val.paths, val.labels, strict=True)] == [("a", 0), ("c", 2)]


def test_classes_follow_the_list_given_not_the_alphabet(data):
    val = open_split(data, "birds", "val", classes=["c", "b", "a"])
    assert [(path.parent.name, label) for path, label in zip(val.paths, val.labels, strict=True)] == [("c", 0), ("a", 2)]


def test_class_names_sort_by_code_point_as_in_torchvision(data):
    for name in ("10", "9", "B", "ä"):
        make(data / f"birds/train/{name}/1.png")
    assert list(class_folders(data / "birds/train")) == ["10", "9", "B", "a", "b", "c", "ä"]


def test_unknown_class_is_an_error_that_names_it(data):
    for name in ("x1", "x2", "x3", "x4", "x5", "x6", "x7"):
        make(data / f"birds/val/{name}/1.png")
    message = message_of(data, "birds", "val", classes=["a", "b", "c"])
    assert "'x1'" in message
    assert "and 2 more" in message
    assert str(data / "birds/val") in message


def test_empty_class_in_train_is_an_error_that_names_it(data):
    (data / "birds/train/d").mkdir()
    (data / "birds/train/d/readme.txt").touch()
    message = message_of(data, "birds", "train")
    assert "'d'" in message
    assert ".jpeg" in message


def test_scan_is_recursive_sorted_and_repeatable(data):
    for name in ("a/z/1.png", "a/b/2.JPG", "a/b/1.jpeg", "a/0.png"):
        make(data / "birds/train" / name)
    first, second = (open_split(data, "birds", "train") for _ in range(2))
    assert first.paths == second.paths
    assert [path.relative_to(first.root / "a").as_posix() for path in first.paths[:5]] == [
        *("0.png", "1.png", "b/1.jpeg", "b/2.JPG", "z/1.png")
    ]


def test_order_does_not_depend_on_the_file_system(data, monkeypatch):
    expected = open_split(data, "birds", "train").paths
    scandir = os.scandir

    class Reversed(list):
        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

    monkeypatch.setattr(os, "scandir", lambda path: Reversed(sorted(scandir(path), key=lambda e: e.name, reverse=True)))
    assert open_split(data, "birds", "train").paths == expected


def test_other_and_hidden_files_are_left_out_and_named(data, capsys):
    root = data / "birds/train"
    for name in ("a/notes.txt", "a/.1.png", "a/._1.png", "labels.csv"):
        (root / name).touch()
    make(root / ".cache/1.png")
    make(root / "a/.thumbnails/1.png")
    train = open_split(data, "birds", "train")
    assert (train.classes, len(train)) == (["a", "b", "c"], 4)
    hidden = "4 hidden or of the system: '.cache', 'a/.1.png', 'a/._1.png', 'a/.thumbnails'"
    assert train.left_out == f"{hidden}; 2 not named like an image: 'a/notes.txt', 'labels.csv'"
    assert capsys.readouterr().out == f"{root}: left out are {train.left_out}\n"


def test_links_are_followed_and_loops_end(data):
    root = data / "birds/train"
    make(data / "elsewhere/9.png")
    (root / "a/more").symlink_to(data / "elsewhere", target_is_directory=True)
    (root / "b/loop").symlink_to(root / "b", target_is_directory=True)
    (root / "d").symlink_to(data / "elsewhere", target_is_directory=True)
    train = open_split(data, "birds", "train")
    assert [path.relative_to(root).as_posix() for path in train.paths] == [
        *("a/1.png", "a/more/9.png", "b/1.png", "c/1.png", "c/2.png", "d/9.png")
    ]


def test_broken_link_is_kept_so_that_the_check_names_it(data):
    (data / "birds/train/a/2.png").symlink_to(data / "nowhere.png")
    assert len(open_split(data, "birds", "train")) == 5


def test_only_class_looks_at_no_other_folder(data, monkeypatch):
    seen = []
    walk = datasets.image_folder.images_below
    monkeypatch.setattr(datasets.image_folder, "images_below", lambda folder, left: seen.append(folder) or walk(folder, left))
    only = open_split(data, "birds", "train", only_class=2)
    assert only.labels == [2, 2]
    assert only.classes == ["a", "b", "c"]
    assert seen == [str(data / "birds/train/c")]


@pytest.mark.parametrize(("index", "expected"), [(3, "0 to 2"), (-1, "0 to 2"), (1, "'b'")])
def test_only_class_out_of_range_or_without_images(data, index, expected):
    message = message_of(data, "birds", "val", classes=["a", "b", "c"], only_class=index)
    assert expected in message


def test_names_for_a_checkpoint_without_names(data):
    assert class_names(data, "birds", "val", 3) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="checkpoint has 4 classes .* 3 class folders"):
        class_names(data, "birds", "val", 4)
    (data / "birds/train").rename(data / "birds/hidden")
    assert class_names(data, "birds", "val", 2) == ["a", "c"]


class TestMissing:
    def test_split(self, data):
        message = message_of(data, "birds", "test")
        assert str(data / "birds/test") in message
        assert "'train', 'val'" in message
        assert "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>" in message

    def test_data_set(self, data):
        message = message_of(data, "bird", "train")
        assert str(data / "bird") in message
        assert "'birds'" in message
        assert "--dataset_name" in message

    def test_path(self, data):
        message = message_of(data / "nowhere", "birds", "train")
        assert str(data / "nowhere") in message
        assert "--dataset_path" in message

    def test_images_without_class_folders(self, data):
        make(data / "flat/train/1.png")
        assert "class" in message_of(data, "flat", "train")
        assert "1 images lie in it directly" in message_of(data, "flat", "train")

    def test_no_image_at_all(self, data):
        (data / "none/val/a").mkdir(parents=True)
        assert "no image" in message_of(data, "none", "val", classes=["a", "b"])


@pytest.mark.parametrize("square", [False, True])
def test_augmentation_does_not_depend_on_workers(data, square):
    train = ImageFolder(data / "birds/train", transform=train_transform(64, square))
    sampler = TrainSampler(len(train), 2, seed=3, sizes=None if square else training_scales(64))
    options = {"batch_sampler": sampler, "collate_fn": collate}
    batches = [list(Loader(train, num_workers=workers, **options)) for workers in (0, 2)]
    assert len(batches[0]) == len(batches[1]) == 2
    for alone, apart in zip(*batches, strict=True):
        assert torch.equal(alone.images, apart.images)
        assert torch.equal(alone.indices, apart.indices)


def test_augmentation_is_seeded_by_the_request_and_leaves_no_trace(data):
    train = ImageFolder(data / "birds/train", transform=train_transform(64, square=True))
    before = torch.get_rng_state()
    first = train[Sample(0, seed=1)][0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(train[Sample(0, seed=1)][0], first)
    assert not torch.equal(train[Sample(0, seed=2)][0], first)
    assert train[Sample(0, seed=1, size=96)][0].shape == (3, 96, 96)


def test_folder_can_go_to_a_spawned_worker(data):
    train = ImageFolder(data / "birds/train", transform=train_transform(64))
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy[Sample(1, seed=5)][0], train[Sample(1, seed=5)][0])


def test_fingerprint_is_that_of_names_and_labels_wherever_they_lie(data, monkeypatch):
    first = open_split(data, "birds", "train").fingerprint()
    make(data / "birds/train/a" / os.fsdecode(b"caf\xe9.png"))  # no UTF-8
    second = open_split(data, "birds", "train").fingerprint()
    assert first != second
    (data / "birds").rename(data / "moved")
    monkeypatch.chdir(data / "moved/train")
    assert ImageFolder(".").fingerprint() == second
    (data / "moved/train/c/2.png").rename(data / "moved/train/b/2.png")  # as many images, and the same labels
    assert ImageFolder(".").fingerprint() != second
