"""Finding and reading cut-outs: classes of folders and files, every kind of transparency, and what cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.composites.cutouts import find_cutouts, read_cutout, usable_cutouts
from util.errors import ImageError


def cutout(path: Path, size: tuple[int, int] = (40, 24), colour: tuple[int, int, int] = (200, 30, 30), margin: int = 5) -> Path:
    """Write an opaque rectangle of `size` (width, height) with a transparent margin, green beneath."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1] + 2 * margin, size[0] + 2 * margin, 4), np.uint8)
    pixels[..., 1] = 255
    pixels[margin : margin + size[1], margin : margin + size[0]] = (*colour, 255)
    Image.fromarray(pixels).save(path)
    return path


def labels(*words: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in find_cutouts(words, []):
        found.setdefault(one.label, []).append(one.name)
    return found


def test_classes_are_folders_or_files(tmp_path):
    for name in ("many/cat/a.png", "many/cat/deep/b.png", "many/dog/a.png", "flat/cat.png", "flat/dog.png"):
        cutout(tmp_path / name)
    (tmp_path / "many/cat/a.txt").write_text("no image")
    (tmp_path / "many/dog/a.svg").write_text("<svg/>")
    assert labels(tmp_path / "many") == {"cat": ["cat/a.png", "cat/deep/b.png"], "dog": ["dog/a.png"]}
    assert labels(tmp_path / "flat") == {"cat": ["cat.png"], "dog": ["dog.png"]}
    words = [tmp_path / "many/cat", tmp_path / "flat/dog.png"]
    assert labels(*words) == {"cat": ["cat/a.png", "cat/deep/b.png"], "dog": ["dog.png"]}
    notes: list[str] = []
    find_cutouts([tmp_path / "many"], notes)
    assert "many/dog/a.svg" not in notes[0] and "'dog/a.svg'" in notes[0] and "'cat/a.txt'" in notes[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "'none': no such file or folder"),
        (["flat/cat.png"], "is one file, one class"),
        (["flat"], "holds 2 images and 'more', but"),
        (["flat/cat.png", "other/cat.png"], "two of them are the class 'cat'"),
        (["flat/more", "empty"], "one class, 'more'"),
        (["empty"], "no cut-out"),
        (["text/a.txt", "flat/cat.png"], "text/a.txt: is not an image"),
    ],
)
def test_words_that_are_no_classes(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("flat/cat.png", "flat/dog.png", "flat/more/bird.png", "other/cat.png"):
        cutout(Path(name))
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/a.txt").write_text("text that is long enough")
    with pytest.raises(ValueError) as caught:
        usable_cutouts(find_cutouts([Path(word) for word in words], []), 40, False, 1, [])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_kind_of_transparency_is_read(tmp_path):
    image = Image.open(cutout(tmp_path / "a.png"))
    rgba = np.asarray(image)
    opaque = rgba[..., 3] > 0
    image.save(tmp_path / "a.webp", lossless=True)
    image.save(tmp_path / "a.tif")
    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "grey.png")
    Image.fromarray(np.where(opaque, 1, 0).astype(np.uint8)).convert("P").save(tmp_path / "palette.png", transparency=0)
    keyed = np.where(opaque[..., None], rgba[..., :3], (1, 2, 3)).astype(np.uint8)
    Image.fromarray(keyed).save(tmp_path / "key.png", transparency=(1, 2, 3))
    for path in sorted(tmp_path.iterdir()):
        pixels = read_cutout(path)
        assert pixels.shape == (24, 40, 4) and (pixels[..., 3] == 255).all(), path
        if path.stem in ("a", "key"):
            assert (pixels[..., :3] == (200, 30, 30)).all(), path


def test_cutouts_are_turned_upright(tmp_path):
    image = Image.open(cutout(tmp_path / "a.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_cutout(tmp_path / "turned.png").shape == (40, 24, 4)


def bad_files(folder: Path) -> dict[str, str]:
    """Write a bad cut-out of each kind; return the message for each."""
    rgba = np.asarray(Image.open(cutout(folder / "good.png"))).copy()
    Image.fromarray(rgba[..., :3]).save(folder / "colours.png")
    Image.fromarray(np.where(np.arange(4) == 3, rgba // 3, rgba)).save(folder / "empty.png")
    Image.fromarray(np.where(np.arange(4) == 3, 255, rgba).astype(np.uint8)).save(folder / "full.png")
    cutout(folder / "one.png", (1, 1))
    cutout(folder / "thin.png", (400, 1))
    data = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("not a picture, but text")
    return {
        "colours.png": "has no transparency",
        "empty.png": "is transparent everywhere",
        "full.png": "is opaque everywhere",
        "one.png": "its object has 1 x 1 pixels",
        "thin.png": "so thin that, 40 pixels long, nothing is left",
        "cut.png": "is truncated or damaged",
        "text.png": "is not an image",
    }


def test_bad_cutouts_are_named_in_a_line_each(tmp_path):
    expected = bad_files(tmp_path)
    for name, message in expected.items():
        pair = find_cutouts([tmp_path / "good.png", tmp_path / name], [])
        with pytest.raises(ValueError) as caught:
            usable_cutouts(pair, 40, False, 1, [])
        assert (
            f"1 of 2 cut-outs cannot be used (replace or remove them, or give --partial to leave them out); {tmp_path / name}: "
            in (str(caught.value))
        )
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="opaque everywhere"):
        read_cutout(tmp_path / "full.png")


def test_bad_cutouts_are_left_out_on_request(tmp_path):
    bad_files(tmp_path)
    cutout(tmp_path / "other.png")
    notes: list[str] = []
    found = find_cutouts([tmp_path], notes)
    assert [one.label for one in usable_cutouts(found, 40, True, 2, notes)] == ["good", "other"]
    assert "7 of 9 cut-outs cannot be used" in notes[0] and "7 classes are lost with them: 'colours', 'cut'" in notes[1]
    with pytest.raises(ValueError, match="7 of 9 .*\n(  .*\n){6}  .*$"):
        usable_cutouts(found, 40, False, 2, [])
    with pytest.raises(ValueError, match="fewer than two classes"):
        usable_cutouts([one for one in found if one.label != "other"], 40, True, 2, [])
