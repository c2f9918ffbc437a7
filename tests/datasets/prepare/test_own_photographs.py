"""Photographs in folders and archives become a data set: splits, near-duplicates, links, and what is refused and said."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from photographs import TWELVE, contents, error_of, listed, run, write_picture

from datasets.image_folder import open_split
from datasets.near_duplicates import measure_looks, near_duplicates
from datasets.prepare.splits import join_groups, split_by_group
from tools.prepare_dataset import get_args_parser, main
from util.cli import launch


@pytest.mark.parametrize("bits", [4, -1])
def test_broken_pictures_are_named_or_left_out(bits, photos, capsys):
    for index in (1, 3):
        path = photos / f"{index:02}.jpg"
        path.write_bytes(path.read_bytes()[:500])
    listed(photos, "".join(f"{path},{label}\n" for path, label in TWELVE))
    with pytest.raises(SystemExit):
        run(photos, "--duplicate_bits", bits)
    message = capsys.readouterr().err
    assert "2 of 12 images cannot be used (replace or remove them, or give --partial to leave them out); the first: " in message
    assert all(f"  {photos / name}: is " in message for name in ("01.jpg", "03.jpg"))
    target = run(photos, "--duplicate_bits", bits, "--partial")
    assert "2 of 12 images cannot be used, and are left out: '01.jpg', '03.jpg'; the first is " in capsys.readouterr().out
    assert len(contents(target)) == 10


def test_pictures_that_are_all_broken(photos, capsys):
    for path in photos.iterdir():
        path.write_bytes(b"")
    listed(photos, "".join(f"{path},{label}\n" for path, label in TWELVE))
    with pytest.raises(SystemExit):
        run(photos, "--partial")
    assert "12 of 12 images cannot be used (replace or remove them); the first" in capsys.readouterr().err


def test_class_folders(photos, capsys):
    for path, label in TWELVE:
        folder = photos / label / f"day {path[1]}"
        folder.mkdir(parents=True, exist_ok=True)
        (photos / path).rename(folder / "picture.jpg")
    target = run(photos, "--min_per_class", 2, "--limit_per_class", 5)
    names = contents(target)
    assert len(names) == 10 and len([name for name in names if name.endswith("_picture.jpg")]) == 8
    assert "10 of 12 pictures are taken" in capsys.readouterr().out
    run(photos, "--min_per_class", 2, "--limit_per_class", 5)
    assert "already there" in capsys.readouterr().out and contents(target) == names
    write_picture(photos / "cat" / "new.jpg", 99)
    with pytest.raises(SystemExit):
        run(photos, "--min_per_class", 2, "--limit_per_class", 5)
    assert "prepared with hash of the photographs" in capsys.readouterr().err


def test_an_archive_of_class_folders(photos, capsys):
    with zipfile.ZipFile(photos.parent / "photos.zip", "w") as archive:
        for path, label in TWELVE:
            archive.write(photos / path, f"mine/{label}/{path}")
    shutil.rmtree(photos)
    target = run(photos.parent / "photos.zip")
    assert len(contents(target)) == 12 and not any(path.is_symlink() for path in target.rglob("*"))
    assert [path.name for path in target.parent.iterdir()] == ["own"]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "val"], "has splits, and can be trained on as it is"),
        (["empty"], "no image in any class folder"),
        (["..hidden"], "no class folder"),
    ],
)
def test_folders_without_classes(photos, capsys, folders, expected):
    for name in folders:
        (photos / name).mkdir()
    assert expected in error_of(capsys, photos)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--min_per_class", "0"], "--min_per_class"),
        (["--list", "/dev/zero"], "/dev/zero: there is no such file"),
        (["--duplicate_bits", "64"], "--duplicate_bits"),
    ],
)
def test_flags(photos, capsys, flags, expected):
    assert expected in error_of(capsys, listed(photos, "".join(f"{path},{label}\n" for path, label in TWELVE)), *flags)


def test_output_in_the_source_is_refused(photos, capsys):
    with pytest.raises(SystemExit):
        launch(main, get_args_parser(), ["folder", "--source", str(photos), "--out", str(photos)])
    assert "would lie in --source" in capsys.readouterr().err


def test_near_duplicates_are_found_and_kept_together(photos, capsys):
    write_picture(photos / "copy.jpg", 0, quality=60)
    write_picture(photos / "small.png", 0, width=48)
    rows = "".join(f"{path},{label}\n" for path, label in [*TWELVE, ("copy.jpg", "cat"), ("small.png", "dog")])
    for seed in range(3):
        shutil.rmtree(photos.parent / "data", ignore_errors=True)
        names = contents(run(listed(photos, rows), "--seed", seed, "--val", 0.5))
        assert len({name.split("/")[0] for name in names if Path(name).stem in ("00", "copy", "small")}) == 1
    out = capsys.readouterr().out
    assert "3 pairs of near-duplicates (kept in one split): '00.jpg = copy.jpg', '00.jpg = small.png'" in out
    assert "2 pairs of near-duplicates with two labels: '00.jpg = small.png'" in out
    shutil.rmtree(photos.parent / "data")
    splits = "path,label,split\n" + rows.replace("\n", ",train\n").replace("copy.jpg,cat,train", "copy.jpg,cat,val")
    message = error_of(capsys, listed(photos, splits.replace("path,label,train", "path,label,split")))
    assert "2 pairs of near-duplicates are in two splits: '00.jpg (train) = copy.jpg (val)'" in message
    assert len(contents(run(photos, "--duplicate_bits", -1))) == 14


def test_flat_pictures_of_other_colours_are_no_duplicates(tmp_path):
    paths = []
    for index, colour in enumerate([(0, 0, 255), (255, 0, 0), (0, 0, 250)]):
        paths.append(tmp_path / f"{index}.png")
        cv2.imwrite(str(paths[-1]), np.full((40, 40, 3), colour, dtype=np.uint8))
    assert near_duplicates(measure_looks(paths), 4) == [(0, 2)]


def test_damaged_picture_is_named(photos, capsys):
    (photos / "03.jpg").write_bytes((photos / "03.jpg").read_bytes()[:200])
    message = error_of(capsys, listed(photos, "".join(f"{path},{label}\n" for path, label in TWELVE)))
    assert "03.jpg" in message and "damaged" in message


def test_links_where_the_file_system_has_no_hard_links(photos, monkeypatch):
    def refuse(*args):
        raise OSError(18, "Invalid cross-device link")

    listed(photos, "".join(f"{path},{label}\n" for path, label in TWELVE))
    monkeypatch.setattr(os, "link", refuse)
    target = run(photos)
    assert all(path.is_symlink() for path in target.glob("*/*/*"))
    assert len(open_split(target.parent, "own", "train")) == 10
    shutil.rmtree(target)
    monkeypatch.setattr(os, "symlink", refuse)
    assert not any(path.is_symlink() for path in run(photos).glob("*/*/*"))


def test_stratified_and_seeded():
    labels = ["a"] * 10 + ["b"] * 20
    splits = split_by_group(labels, range(30), {"train": 0.7, "val": 0.2, "test": 0.1}, seed=1)
    counts = [[splits[start:end].count(name) for name in ("train", "val", "test")] for start, end in ((0, 10), (10, 30))]
    assert counts == [[7, 2, 1], [14, 4, 2]]
    assert splits == split_by_group(labels, range(30), {"train": 0.7, "val": 0.2, "test": 0.1}, seed=1)
    assert splits != split_by_group(labels, range(30), {"train": 0.7, "val": 0.2, "test": 0.1}, seed=2)


def test_groups_are_joined_by_pairs():
    assert join_groups(["x", 1, "x", 3, 4], [(2, 3)]) == [0, 1, 0, 0, 4]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", "names no folder"),
        ("hf:", "names no folder"),
        ("{}/list.csv", "is a list or one file: give its folder, and --list list.csv"),
        ("hf:{}/list.csv", "is a list or one file: give its folder"),
        ("hf:~/none", "/none: no such folder or archive"),
        ("gbif:{} --list list.csv", "--list and --val_list are for photographs without gbif:"),
        ("{} --label breed", "has no such column, but 'path', 'label'"),
        ("{} --list none --group x", "--group names a column, and"),
    ],
)
def test_sources_that_cannot_be(photos, capsys, source, expected):
    listed(photos, "path,label\n00.jpg,a\n")
    out = photos.parent / "data"
    with pytest.raises(SystemExit) as caught:
        words = source.format(photos).split(" ")
        launch(main, get_args_parser(), ["folder", "--out", str(out), "--source", *words])
    assert caught.value.code == 2 and expected in capsys.readouterr().err and not list(out.rglob("*"))


def test_an_error_names_the_archive(photos, capsys):
    with zipfile.ZipFile(photos.parent / "photos.zip", "w") as archive:
        archive.write(photos / "00.jpg", "00.jpg")
    message = error_of(capsys, photos.parent / "photos.zip")
    assert f"{photos.parent}/photos.zip: no class folder" in message and "unpacked" not in message


def test_folders_of_splits_with_other_names(photos, capsys):
    for index in range(6):
        folder = photos / ["train", "valid"][index % 2] / ["cat", "dog"][index // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (photos / f"{index:02}.jpg").rename(folder / f"{index:02}.jpg")
    for index in range(6, 12):
        (photos / f"{index:02}.jpg").unlink()
    assert contents(run(photos)) == {
        "train/cat/00.jpg", "train/cat/04.jpg", "train/dog/02.jpg", "val/cat/01.jpg", "val/cat/05.jpg", "val/dog/03.jpg"
    }  # fmt: skip
    (photos / "validation").mkdir()
    shutil.rmtree(photos.parent / "data")
    assert "the folders 'valid', 'validation' are of one split" in error_of(capsys, photos)
