"""Pictures with two objects: what is wrong with a list is one line, and the masks are those that were drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from attribution.metrics.localisation import pair_scores
from datasets.masks import check_masks, load_masks, read_mask, read_pairs
from datasets.planes import get_preset
from datasets.planes.pairs import export_pairs

CLASSES = ["bus", "car", "tram"]
ENTRY = {"file": "street.png", "A": "bus", "B": "tram"}


@pytest.fixture
def street(tmp_path) -> Path:
    """A picture of 20 x 30 pixels with an object on the left and one on the right."""
    write(tmp_path, "street.png", np.full((20, 30, 3), 90, np.uint8))
    write(tmp_path, "street.A.png", box(0, 10))
    write(tmp_path, "street.B.png", box(20, 30))
    (tmp_path / "pairs.json").write_text(json.dumps([ENTRY]))
    return tmp_path


def write(folder: Path, name: str, picture: np.ndarray) -> None:
    cv2.imwrite(str(folder / name), picture)


def box(start: int, stop: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((20, 30), np.uint8)
    mask[:, start:stop] = value
    return mask


def test_list_is_read_from_file_or_folder(street):
    (pair,) = read_pairs(street, CLASSES)
    assert [pair] == read_pairs(street / "pairs.json", CLASSES)
    assert pair.classes == (0, 2) and pair.path.name == "street.png"
    masks = load_masks(pair, (20, 30))
    assert masks.dtype == torch.bool and torch.equal(masks, torch.from_numpy(np.stack([box(0, 10), box(20, 30)]) > 0))


@pytest.mark.parametrize("size", [(10, 15), (40, 60), (7, 60), (40, 9)])
def test_masks_lie_where_the_network_sees_the_object(street, size):
    (pair,) = read_pairs(street, CLASSES)
    first, second = load_masks(pair, size)
    assert first.shape == size
    columns = torch.arange(size[1])
    assert torch.equal(first, (columns + 0.5 < size[1] / 3).expand(size))
    assert torch.equal(second, (columns + 0.5 > size[1] * 2 / 3).expand(size))


def test_thin_object_does_not_vanish(street):
    write(street, "street.A.png", box(3, 4))
    (pair,) = read_pairs(street, CLASSES)
    first = load_masks(pair, (4, 6))[0]
    assert torch.equal(first, (torch.arange(6) == 0).expand(4, 6))


@pytest.mark.parametrize("value", [1, 3, 255])
def test_any_two_values_are_a_mask(street, value):
    write(street, "street.A.png", box(0, 10, value))
    assert torch.equal(read_mask(street / "street.A.png"), torch.from_numpy(box(0, 10) > 0))
    write(street, "street.A.png", np.repeat(box(0, 10)[..., None], 3, 2))
    assert torch.equal(read_mask(street / "street.A.png"), torch.from_numpy(box(0, 10) > 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "pairs.json: is not JSON"),
        ("[" * 100_000, "pairs.json: is not JSON"),
        ("{}", "not a list; expected"),
        ("[]", "an empty list; expected"),
        ([7], "entry 1 lacks the text 'file', 'A' or 'B'; expected"),
        ([ENTRY, {"file": "street.png", "A": "bus"}], "entry 2 lacks"),
        ([ENTRY | {"B": 2}], "entry 1 lacks"),
        ([ENTRY | {"B": "tran"}], "B is 'tran', not one of the model's 3 classes: 'tram'"),
        ([ENTRY | {"B": "\x1b[1m" + "x" * 99}], r"B is '\x1b[1mxxx"),
        ([ENTRY | {"file": "/"}], "file is '/', which names no picture"),
        ([ENTRY | {"file": "x" * 300}], "x: is a name that no file has"),
        ([ENTRY | {"file": "a\0b"}], r"file is 'a\x00b', which names no picture"),
        ([ENTRY | {"B": "bus"}], "A and B are both 'bus'"),
        ([ENTRY | {"file": "road.png"}], "road.png: does not exist"),
    ],
)
def test_wrong_list_is_one_line(street, content, message):
    (street / "pairs.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_pairs(street, CLASSES)
    assert str(street) in str(error.value) and "\n" not in str(error.value)


def test_missing_list_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="--pairs .*none.json: No such file"):
        read_pairs(tmp_path / "none.json", CLASSES)


def test_wrong_masks_are_named(street):
    (pair,) = read_pairs(street, CLASSES)
    mask = street / "street.B.png"
    mask.unlink()
    with pytest.raises(ValueError, match=r"street.B.png: is missing; expected the mask of an object in street.png"):
        read_pairs(street, CLASSES)
    write(street, mask.name, np.zeros((30, 20), np.uint8))
    with pytest.raises(ValueError, match=r"street.B.png: is 20 x 30, its picture is 30 x 20"):
        read_pairs(street, CLASSES)
    for picture, message in ((box(0, 0), "is empty"), (box(0, 30), "marks all"), (np.dstack([box(0, 9)] * 4), "transparent")):
        write(street, mask.name, picture)
        with pytest.raises(ValueError, match=f"street.B.png: .*{message}"):
            read_pairs(street, CLASSES)
        with pytest.raises(ValueError, match=f"street.B.png: .*{message}"):
            load_masks(pair, (20, 30))
    mask.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"street.B.png: is not an image"):
        read_pairs(street, CLASSES)


def test_a_mask_of_two_pictures_is_refused(street):
    write(street, "street.jpg", np.full((20, 30, 3), 60, np.uint8))
    for other in ({"file": "street.jpg"}, {"A": "car"}):
        (street / "pairs.json").write_text(json.dumps([ENTRY, {**ENTRY, **other}]))
        with pytest.raises(ValueError, match=r"street\.A\.png is the mask of two entries"):
            read_pairs(street, CLASSES)
    pictures = [street / "val" / "bus" / name for name in ("a.png", "a.jpg", "b.png")]
    for path in (*pictures, street / "masks" / "val" / "bus" / "a.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path.parent, path.name, box(0, 10))
    assert check_masks(street / "masks", street / "val", pictures[1:]) == 1
    with pytest.raises(ValueError, match=r"a\.png would be that of .*a\.png and of a\.jpg: rename one"):
        check_masks(street / "masks", street / "val", pictures)


def test_scenes_of_the_renderer_are_pairs(tmp_path):
    preset = get_preset("f16")
    export_pairs(tmp_path / "pairs", preset, 2, 64)
    pairs = read_pairs(tmp_path / "pairs", list(preset.classes))
    masks = torch.stack([load_masks(pair, (64, 64)) for pair in pairs])
    assert masks.any((-2, -1)).all() and not masks.all(1).any()
    assert (pair_scores(masks.float(), masks)["own_hit"] == 1).all()
