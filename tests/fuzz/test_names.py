"""Names of classes and pictures, whatever they hold: one folder or file each, in the folder of the data set."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attribution.report.panels import safe_name as panel_name
from datasets.folders import SYSTEM
from datasets.image_folder import open_split
from datasets.prepare.names import class_folders_of, picture_names, safe_name
from tests.fuzz.harness import NAMES, examples, is_one_line, watched
from tools.prepare_dataset import get_args_parser, main
from util.classes import class_key, find_class
from util.cli import parse

FOLDER: list[Path] = []  # the tests write here; hypothesis calls a test many times with the fixtures of the first


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    """A folder with three photographs."""
    FOLDER[:] = [tmp_path]
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((30, 20), 90).save(tmp_path / "photos" / f"{number}.png")


def is_name(text: str) -> bool:
    """Return whether a text is the name of one file, in this folder, that is not hidden."""
    is_plain = text not in ("", ".", "..") and not set(text) & set("/\\\0\n")
    return is_plain and len(text.encode()) <= 200 and not SYSTEM.fullmatch(text)


@examples(300)
@given(st.lists(NAMES, max_size=5))
def test_names_of_folders_and_files(labels: list[str]) -> None:
    assert not any(map(SYSTEM.fullmatch, filter(None, map(safe_name, labels))))
    assert all(is_name(f"0_{panel_name(label)}") for label in labels)  # the folder of a class
    try:
        folders = class_folders_of(labels)
    except ValueError as error:
        assert is_one_line(error)
    else:
        assert all(map(is_name, folders.values())) and len(set(folders.values())) == len(folders) == len(set(labels))
    paths = [path for label in labels for path in (f"x{label}.jpg", f"{label}/x.jpg", "x.jpg")]
    names = picture_names([path for path in paths if os.path.splitext(path)[1]])
    assert len({name.casefold() for name in names}) == len(names) and all(map(is_name, names))


@examples(200)
@given(st.lists(NAMES, min_size=1, max_size=4), NAMES | st.integers())
def test_a_class_is_found_or_not(classes: list[str], choice: str | int) -> None:
    try:
        assert 0 <= find_class(choice, classes) < len(classes)
    except ValueError as error:
        assert is_one_line(error)


@examples(25)
@given(st.lists(NAMES, min_size=3, max_size=3))
def test_a_data_set_of_any_labels(labels: list[str]) -> None:
    """What is written lies in the data set, and is read back with as many classes."""
    listed = {"images": [], "annotations": [], "categories": []}
    for number, label in enumerate(labels):
        listed["images"].append({"id": number, "file_name": f"{number}.png"})
        listed["annotations"].append({"image_id": number, "category_id": number})
        listed["categories"].append({"id": number, "name": label})
    (FOLDER[0] / "photos" / "list.json").write_text(json.dumps(listed))
    out = FOLDER[0] / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = ["folder", "--source", FOLDER[0] / "photos", "--out", out, "--name", "own", "--val", 0, "--duplicate_bits", -1]
    with watched(out, 100):
        try:
            main(parse(get_args_parser(), [str(word) for word in words]))
        except ValueError as error:
            assert is_one_line(error) and not (out / "own").exists()
            return
    train = open_split(out, "own", "train")
    assert len(train) == 3 and len(train.classes) == len({class_key(label) for label in labels})
