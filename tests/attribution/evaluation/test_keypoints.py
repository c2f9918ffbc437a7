"""Key points and boxes of pictures: turned as EXIF turns the picture, of planes, and wrong files named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from attribution.evaluation.keypoints import open_part_annotations, upright
from datasets.planes import PARTS, get_preset
from datasets.planes.dataset import export, open_planes


@pytest.mark.parametrize("turn", range(1, 9))
def test_places_turn_with_the_picture(turn: int) -> None:
    stored = np.zeros((20, 30), np.uint8)
    stored[4, 23] = 255
    picture = Image.fromarray(stored)
    picture.getexif()[0x0112] = turn
    turned = np.asarray(ImageOps.exif_transpose(picture))
    y, x = np.argwhere(turned)[0]
    place = upright(np.array([23.5 / 30, 4.5 / 20]), turn)
    np.testing.assert_allclose(place, [(x + 0.5) / turned.shape[1], (y + 0.5) / turned.shape[0]])


def test_annotations_of_a_prepared_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "val" / "wren"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # the left edge becomes the upper one
    Image.new("RGB", (40, 20)).save(folder / "a.jpg")
    Image.new("RGB", (40, 20)).save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 20)).save(folder / "unknown.jpg")
    facts = {"box": [10, 5, 30, 15], "parts": {"beak": [12, 6], "tail": [28, 10]}}
    (tmp_path / "annotations.json").write_text(json.dumps({"val/wren/a.jpg": facts, "val/wren/turned.jpg": facts}))
    annotations = open_part_annotations(tmp_path / "val")
    assert (
        annotations is not None and annotations.names == ("beak", "tail") and annotations.part_map(folder / "a.jpg", 20) is None
    )
    found = annotations.key_points([folder / "a.jpg", folder / "turned.jpg", folder / "unknown.jpg"])
    np.testing.assert_allclose(found.points[0], [[0.3, 0.3], [0.7, 0.5]])
    np.testing.assert_allclose(found.boxes[0], [[0.25, 0.25], [0.75, 0.75]])
    np.testing.assert_allclose(found.points[1], [[0.7, 0.3], [0.5, 0.7]])
    np.testing.assert_allclose(found.boxes[1], [[0.25, 0.25], [0.75, 0.75]])
    assert np.isnan(found.points[2]).all() and np.isnan(found.boxes[2]).all()


def test_planes_have_a_part_for_every_pixel(tmp_path: Path) -> None:
    export(tmp_path / "planes", get_preset("f8"), 64, {"val": 8})
    split = open_planes(tmp_path / "planes", "val")
    annotations = open_part_annotations(tmp_path / "planes" / "val", split)
    assert annotations is not None and annotations.names == PARTS
    pictures = sorted((tmp_path / "planes" / "val").glob("*/*.png"))
    found = annotations.key_points(pictures)
    for picture, points, box in zip(pictures, *found, strict=True):
        drawn = annotations.part_map(picture, 64)
        stored = np.asarray(Image.open(tmp_path / "planes" / "parts" / picture.relative_to(tmp_path / "planes")))
        assert drawn is not None and (drawn == stored).all()
        rows, columns = np.nonzero(drawn)
        assert (box[0] * 64 <= [columns.min(), rows.min()]).all() and (box[1] * 64 >= [columns.max(), rows.max()]).all()
        seen = points[np.isfinite(points).all(-1)]
        assert len(seen) >= 5 and ((seen >= box[0]) & (seen <= box[1])).all()


@pytest.mark.parametrize(("text", "words"), [
    ("[", "is not of the form"), ("[]", "is not of the form"),
    ('{"val/a/b.jpg": {"parts": {"beak": [1]}}}', "is not of the form"),
    ('{"val/a/b.jpg": {"parts": {"beak": [1, NaN]}}}', "is not of the form"),
    ('{"val/a/b.jpg": {"parts": {"beak": [1, 2]}, "box": [1, 2, 3]}}', "is not of the form"),
])  # fmt: skip
def test_another_form_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        open_part_annotations(tmp_path / "val")


def test_boxes_alone_are_no_parts(tmp_path: Path) -> None:
    assert open_part_annotations(tmp_path / "val") is None
    (tmp_path / "annotations.json").write_text('{"val/a/b.jpg": {"box": [1, 2, 3, 4]}}')
    assert open_part_annotations(tmp_path / "val") is None
