"""Lists of photographs as JSON in COCO's form: sequences, boxes, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from photographs import contents, error_of, listed, run

from datasets.decode import decode_image


def coco(labels: list[str], **more: object) -> str:
    names = sorted(set(labels))
    images = [{"id": f"x{index}", "file_name": f"{index:02}.jpg", "seq_id": index // 2} for index in range(len(labels))]
    annotations = [{"image_id": f"x{index}", "category_id": names.index(label)} for index, label in enumerate(labels)]
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    return json.dumps({"images": images, "annotations": annotations * 2, "categories": categories, **more})


def test_json_of_coco(photos, capsys):
    target = run(listed(photos, coco(["cat", "cat", "F/A-18", "F/A-18"] * 3), "train.json"), "--val", 0.3)
    splits = {int(Path(name).stem): name.split("/")[0] for name in contents(target)}
    assert len(splits) == 12 and all(splits[index] == splits[index + 1] for index in range(0, 12, 2))  # a sequence in one split
    shutil.rmtree(target)
    (photos / "val.json").write_text(coco(["cat"] * 4))
    (photos / "train.csv").write_text("path,label\n" + "".join(f"{index:02}.jpg,cat\n" for index in range(4, 12)))
    assert "holds 3 lists, 'train.csv', 'train.json', 'val.json'" in error_of(capsys, photos)
    target = run(photos, "--list", "train.csv", "--val_list", "val.json")
    assert {name for name in contents(target) if name.startswith("val")} == {f"val/cat/0{index}.jpg" for index in range(4)}


def test_squares_around_boxes_of_coco(photos, capsys):
    content = json.loads(coco(["cat"] * 12))
    for index, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [10, 10, 10, 5] if index < 12 else [20, 10, 10, 20]
    target = run(listed(photos, json.dumps(content), "list.json"), "--square_crop", "boxes")
    sizes = {decode_image(path).shape for path in target.glob("*/*/*.jpg")}
    assert sizes == {(3, 24, 24)} and len(contents(target) & {f"train/cat/{index:02}.jpg" for index in range(12)}) == 10
    shutil.rmtree(target)
    assert "no picture has a box" in error_of(capsys, listed(photos, coco(["cat"] * 12), "list.json"), "--square_crop", "boxes")


def test_boxes_that_are_empty_or_outside(photos, capsys):
    boxes = [[1000, 1000, 50, 50], [5, 5, -3, 4], [5, 5, 0.2, 0.2], [5, 5, 0, 0], [-9, 5, 9.5, 9], [10, 10, 54, 38]]
    content = json.loads(coco(["cat"] * 12))
    for index, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [*boxes, *[[10, 10, 10, 5]] * 6][index % 12]
    target = run(listed(photos, json.dumps(content), "list.json"), "--square_crop", "boxes", "--val", 0)
    said = capsys.readouterr().out
    assert "5 of 12 boxes are empty or outside their picture: '00.jpg', '01.jpg', '02.jpg', '03.jpg', '04.jpg'; these" in said
    assert "6 of 12 pictures are cut to the square" in said and "1 of 12 pictures are smaller than the square" in said
    sizes = [decode_image(target / "train" / "cat" / f"{index:02}.jpg").shape[1:] for index in range(12)]
    assert sizes == [(48, 64)] * 6 + [(12, 12)] * 6
    assert len(list((target / "masks").rglob("*.png"))) == len(json.loads((target / "annotations.json").read_text())) == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is no JSON in COCO's form"),
        ("[" * 100000, "is no JSON in COCO's form"),
        ("{}", "there is no 'images'; expected"),
        (coco(["cat"], images=[{"id": "x0", "file_name": "../a.jpg"}]), "row 1: '../a.jpg' leads out of its folder"),
        (coco(["cat"], annotations=[{"image_id": "x0", "category_id": 0, "bbox": [1, 2]}]), "is no JSON in COCO's form"),
        (coco(["cat"], annotations=[{"image_id": "x0", "category_id": 0, "bbox": [10**400] * 4}]), "is no JSON in COCO's form"),
        (coco(["cat"], images=[{"id": "x0", "file_name": 7}]), "row 1: '7' is not named like an image"),
    ],
)
def test_wrong_json_is_refused(photos, capsys, text, expected):
    assert expected in error_of(capsys, listed(photos, text, "list.json"))
