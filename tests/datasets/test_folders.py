"""What counts as a class and as an image: what is left out is named, and no class is lost or taken twice in silence."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from conftest import tiny_flags

from datasets.folders import class_folders
from datasets.image_folder import ImageFolder, class_names, open_split
from datasets.loaders import build_datasets, training_classes

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def make(root: Path, *names: str) -> Path:
    """Files without content: nothing is decoded here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def error(function, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_systems_put_into_folders_is_no_image_and_no_class(tmp_path: Path) -> None:
    folders = "@eaDir .thumbnails __MACOSX .AppleDouble #recycle @Recycle lost+found $RECYCLE.BIN .@__thumb .ipynb_checkpoints"
    for name in folders.split():
        make(tmp_path, f"{name}/1.png", f"a/{name}/1.png", f"a/more/{name}/1.png/THUMB_XL.jpg")
    files = ("a/Thumbs.db", "a/._x.jpg", "a/.DS_Store", "a/desktop.ini", "Thumbs.db")
    split = ImageFolder(make(tmp_path, "a/x.jpg", "b/recycle/x.jpg", "@home/x.jpg", *files))
    assert split.classes == ["@home", "a", "b"] and len(split) == 3
    assert split.left_out == (
        "35 hidden or of the system: '#recycle', '$RECYCLE.BIN', '.@__thumb', '.AppleDouble', '.ipynb_checkpoints' and 30 more"
    )


def test_images_of_other_formats_are_named_with_what_converts_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make(tmp_path / "d/train", "a/1.HEIC", "a/2.heic", "a/3.png", "b/1.png", "b/x.avif", "b/x.NEF", "b/x.tfrecord", "1.png")
    open_split(tmp_path, "d", "train")
    line = capsys.readouterr().out
    for words in ("2 in a format that is not read (convert .heic with heif-convert", "'a/1.HEIC', 'a/2.heic'", "avifdec"):
        assert words in line
    for words in (
        "(convert .nef with darktable-cli",
        "1 not named like an image: 'b/x.tfrecord'",
        "1 in no class folder: '1.png'",
    ):
        assert words in line
    (tmp_path / "d/train/a/3.png").unlink()
    message = error(open_split, tmp_path, "d", "train")
    assert "no image in class 'a'" in message and "heif-convert" in message


@pytest.mark.parametrize("target", ["nowhere", "loop"])
def test_a_link_in_place_of_a_class_that_leads_nowhere(tmp_path: Path, target: str) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "loop").symlink_to(tmp_path / target)
    message = error(ImageFolder, tmp_path, ["a", "b"])
    assert "'loop' is a link to" in message and target in message and "a class would be lost" in message
    (tmp_path / "loop").rename(tmp_path / "a/loop")  # an image's folder, perhaps: named
    assert ImageFolder(tmp_path).left_out == "1 linked to nothing: 'a/loop'"


@pytest.mark.parametrize(
    ("target", "words"), [("a", "whose images have another class"), (".", "contains the link"), ("..", "contains the link")]
)
def test_a_link_to_the_images_of_other_classes(tmp_path: Path, target: str, words: str) -> None:
    root = make(tmp_path / "train", "a/1.png", "b/1.png")
    (root / "c").symlink_to(root / target)
    message = error(ImageFolder, root)
    assert "'c' is a link to" in message and words in message
    make(tmp_path / "elsewhere", "1.png")
    (root / "c").unlink()
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder(root).classes == ["a", "b", "c"]
    (root / "d").symlink_to(tmp_path / "elsewhere")
    assert "'d' is a link to" in error(ImageFolder, root)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "b/more/1.png")
    scandir = os.scandir

    def refuse(folder: object) -> object:
        if str(folder).endswith("more"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert error(ImageFolder, tmp_path) == f"{tmp_path}/b/more cannot be read (Permission denied): make it readable, or remove it"


@pytest.mark.parametrize("pair", [(NFC, NFD), ("cat", "cat "), ("cat", "\ufeffcat"), ("a cat", "a\u00a0cat")])
def test_class_names_that_look_alike(tmp_path: Path, pair: tuple[str, str]) -> None:
    make(tmp_path / "train", *(f"{name}/1.png" for name in (pair[0], "z")))
    make(tmp_path / "val", *(f"{name}/1.png" for name in (pair[1], "z")))
    train = ImageFolder(tmp_path / "train")
    val = ImageFolder(tmp_path / "val", train.classes)  # of a copy: the same class
    assert val.classes == train.classes and sorted(val.labels) == [0, 1]
    assert val.paths[val.labels.index(train.classes.index(pair[0]))].parent.name == pair[1]
    make(tmp_path / "train", f"{pair[1]}/1.png")
    message = error(ImageFolder, tmp_path / "train")
    assert ascii(pair[0]) in message and ascii(pair[1]) in message and "look alike" in message


def test_names_that_differ_in_case_are_two_classes_and_in_val_a_hint(tmp_path: Path) -> None:
    make(tmp_path / "train", "A/1.png", "a/1.png", "Cat/1.png")
    make(tmp_path / "val", "cat/1.png")
    train = ImageFolder(tmp_path / "train")
    assert train.classes == ["A", "Cat", "a"]
    assert "(is 'Cat' meant?)" in error(ImageFolder, tmp_path / "val", train.classes)


def test_a_run_goes_on_with_folders_of_another_unicode_form(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its folders, and with them the order of its labels, may come from a Mac: 'é' is before 'f' there, else after it."""
    make(tmp_path / "d", f"train/{NFC}/1.png", "train/f/1.png", f"val/{NFD}/1.png")
    args = tiny_flags("--dataset_path", tmp_path, "--dataset_name", "d", "--square")
    assert training_classes(args) == class_names(tmp_path, "d", "val", 2) == ["f", NFC]
    for saved in ([NFC, "f"], [NFD, "f"]):
        assert training_classes(args, saved) == saved
        train, val = build_datasets(args, saved)
        labels = [(path.parent.name, label) for path, label in zip(train.paths, train.labels, strict=True)]
        assert (labels, val.labels, train.classes) == ([(NFC, 0), ("f", 1)], [0], saved)
        assert capsys.readouterr().out == f"{val.root}: no image in 1 of 2 classes: 'f'\n"
    assert training_classes(args, ["f", "g"]) == ["f", NFC]
    (tmp_path / "d/train/f/1.png").unlink()
    assert "no image in class 'f'" in error(build_datasets, args, [NFC, "f"])


def test_class_names_are_utf_8(tmp_path: Path) -> None:
    make(tmp_path, os.fsdecode(b"caf\xe9/1.png"))
    assert "'caf\\xe9' is not UTF-8" in error(class_folders, tmp_path)
