"""Photographs with a list or in class folders become a data set: what is found, refused and said."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.decode import decode_image
from datasets.image_folder import open_split
from datasets.near_duplicates import measure_looks, near_duplicates
from datasets.prepare import photo_lists
from datasets.prepare.photo_lists import COLUMNS
from datasets.prepare.splits import join_groups, split_by_group
from tools.prepare_dataset import get_args_parser, main
from util.cli import launch


def write_picture(path: Path, seed: int, **options: int) -> Path:
    """A picture of smooth noise: no two seeds look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (options.get("width", 64), 48), interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(path.suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, options.get("quality", 95)])[1]
    path.write_bytes(encoded.tobytes())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures in a flat folder, without a list."""
    for index in range(12):
        write_picture(tmp_path / "photos" / f"{index:02}.jpg", index)
    return tmp_path / "photos"


def listed(photos: Path, rows: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    (photos / name).write_bytes(rows.encode(encoding))
    return photos


def run(source: Path, *more: object) -> Path:
    out = source.parent / "data"
    launch(main, get_args_parser(), ["folder", "--source", str(source), "--out", str(out), "--name", "own", *map(str, more)])
    return out / "own"


def error_of(capsys: pytest.CaptureFixture[str], source: Path, *more: object) -> str:
    with pytest.raises(SystemExit) as caught:
        run(source, *more)
    message = capsys.readouterr().err.splitlines()[-1]  # a slow machine shows progress before it
    assert caught.value.code == 2 and ": error: " in message, message
    assert not (source.parent / "data" / "own").exists()
    return message


def contents(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.glob("*/*/*")}


TWELVE = [(f"{index:02}.jpg", "cat" if index < 6 else "dog") for index in range(12)]


@pytest.mark.parametrize(
    ("delimiter", "header", "name", "encoding"),
    [
        (",", "path,label", "list.csv", "utf-8-sig"),
        (";", "Image Name;Species", "list.csv", "cp1252"),
        ("\t", "", "list.tsv", "utf-16"),
        ("|", "", "list.txt", "utf-8"),
        (";", "sep=;\nfile;class", "list.csv", "utf-8"),
    ],
)
def test_delimiter_header_and_encoding_are_found(photos, delimiter, header, name, encoding):
    rows = "".join(f"{path}{delimiter}{label.replace('cat', 'Kätzchen, weiß')}\r\n" for path, label in TWELVE)
    rows = rows if delimiter != "," else rows.replace("Kätzchen, weiß", '"Kätzchen, weiß"')
    target = run(listed(photos, f"{header}\r\n" * bool(header) + rows, name, encoding))
    train = open_split(target.parent, "own", "train")
    assert train.classes == ["Kätzchen, weiß", "dog"] and len(train) == 10
    assert open_split(target.parent, "own", "val", train.classes).labels == [0, 1]
    assert all(os.path.samefile(path, photos / path.name) and not path.is_symlink() for path in train.paths)
    record = json.loads((target / "dataset.json").read_text())
    assert record["images"] == {"train": {"images": 10, "classes": 2}, "val": {"images": 2, "classes": 2}}
    assert record["licence"] == "not stated" and "seed 0" in record["split"]


@pytest.mark.parametrize("label", ["Boeing, 737", "a;b", "a|b", "x, y; z"])
@pytest.mark.parametrize("delimiter", ",;\t")
def test_labels_may_hold_other_delimiters(photos, label, delimiter):
    if delimiter in label:
        label = f'"{label}"'
    rows = "".join(f"{path}{delimiter}{label}\n" for path, _ in TWELVE)
    assert [path.name for path in (run(listed(photos, rows)) / "train").iterdir()] == [label.strip('"')]


@pytest.mark.parametrize("start", ["", "./", "photos/", "{}/", "photos\\"])
def test_paths_may_start_with_the_folder(photos, start):
    rows = "".join(f"{start.format(photos.resolve())}{path},{label}\n" for path, label in TWELVE)
    assert len(contents(run(listed(photos, rows)))) == 12


def test_splits_and_groups_of_the_list(photos):
    rows = "".join(f"{path},{label},{'test' if path[1] in '15' else 'Train'},g{path}\n" for path, label in TWELVE)
    target = run(listed(photos, f"file,class,set,individual\n{rows}"))
    assert {name for name in contents(target) if name.startswith("val")} == {"val/cat/01.jpg", "val/cat/05.jpg", "val/dog/11.jpg"}
    assert "its test is val" in " ".join(json.loads((target / "dataset.json").read_text())["notes"])


def test_a_group_is_in_one_split(photos):
    rows = "".join(f"{path},{label},,burst {int(path[:2]) // 2}\n" for path, label in TWELVE)  # the column of splits is empty
    target = run(listed(photos, rows), "--val", "0.3", "--seed", "4")
    splits = {int(Path(name).stem): name.split("/")[0] for name in contents(target)}
    assert all(splits[index] == splits[index + 1] for index in range(0, 12, 2))
    assert sorted(splits.values()).count("val") == 4


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("path,label\n00.jpg,c\n99.jpg,c\n,c\n01.jpg,\n02.jpg,a,b\nx.txt,c\n../a.jpg,c\n", "6 of 7 rows are wrong: row 3"),
        ("path,label\n/etc/secret.jpg,cat\n00.jpg,cat\n", "row 2: '/etc/secret.jpg' leads out of its folder"),
        ("path,file,label\n00.jpg,a,cat\n", "several columns of paths"),
        ("00.jpg cat\n", "no rows of two columns"),
        ("", "no rows of two columns"),
        ("00.jpg,cat,train\n00.jpg,cat,test\n", "'00.jpg' is listed with the splits 'train' and 'test'"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused(photos, capsys, rows, expected):
    assert expected in error_of(capsys, listed(photos, rows))


def test_names_that_no_file_can_have(photos, capsys):
    long = "x" * 252 + ".jpg"
    assert f"row 1: no file '{long}'" in error_of(capsys, listed(photos, f"{long},a\n"))
    assert "row 1: '\\t' expected after '\"'" in error_of(capsys, listed(photos, '"a"b,c\n'))
    assert "lists no picture" in error_of(capsys, listed(photos, "\n", "list.jsonl"), "--list", "list.jsonl")


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


def test_the_limit_is_of_each_split_that_the_list_gives(photos, capsys):
    rows = "".join(f"{path},{label},{'val' if path[1] in '15' else 'train'}\n" for path, label in TWELVE)
    listed(photos, rows)
    target = run(photos, "--limit_per_class", 1)
    assert sorted(name.rpartition("/")[0] for name in contents(target)) == ["train/cat", "train/dog", "val/cat", "val/dog"]
    assert "4 of 12 pictures are taken: at most 1 of each class in each split" in capsys.readouterr().out


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


def test_a_text_beside_class_folders_is_no_list(photos):
    for path, label in TWELVE:
        (photos / label).mkdir(exist_ok=True)
        (photos / path).rename(photos / label / path)
    assert len(contents(run(listed(photos, "Photographs of 2024", "README.txt")))) == 12


def test_a_picture_whose_name_is_a_space(photos):
    """It has another name in the data set, where it would be hidden."""
    (photos / "00.jpg").rename(photos / " .jpg")
    rows = "".join(f"{path},{label}\n" for path, label in TWELVE).replace("00.jpg", '"./ .jpg"')
    target = run(listed(photos, rows), "--val", 0)
    assert "train/cat/_.jpg" in contents(target) and len(open_split(target.parent, "own", "train")) == 12


def test_hostile_labels_stay_in_the_folder(photos):
    labels = ["../../x", ".hidden", "F/A-18", "Boeing 707, late", "a\\b", "Thumbs.db", "e\u0301", "x" * 300]
    rows = "".join(f"{index:02}.jpg\t{label}\n" for index, label in enumerate(labels))
    target = run(listed(photos, rows, "list.tsv"), "--val", 0)
    folders = {path.name for path in (target / "train").iterdir()}
    assert folders == {"_.._.._x", "_.hidden", "F_A-18", "Boeing 707, late", "a_b", "_Thumbs.db", "\u00e9", "x" * 180}
    assert json.loads((target / "dataset.json").read_text())["class_names"]["F_A-18"] == "F/A-18"
    assert {path.name for path in photos.parent.iterdir()} == {"photos", "data"}
    assert len(open_split(target.parent, "own", "train")) == 8


def test_names_that_are_no_utf8(photos, capsys):
    strange = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg"))
    write_picture(photos / "tmp.jpg", 50).rename(strange)
    target = run(listed(photos, "café.jpg;a\nsub\\00.jpg;a\n00.jpg;a\n", encoding="cp1252"), "--partial", "--val", 0)
    assert contents(target) == {"train/a/café.jpg", "train/a/00.jpg"}
    assert "1 of 3 listed pictures are missing: 'sub\\00.jpg'" in capsys.readouterr().out
    shutil.rmtree(target)
    for name in ("a", "b"):
        (photos / name).mkdir()
        for picture in sorted(photos.glob("*.jpg"))[name == "b" :: 2]:
            picture.rename(photos / name / picture.name)
    assert {"train/b/caf_.jpg", "train/a/caf_.jpg"} & contents(run(photos, "--list", "none", "--val", 0))


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


def test_classes_that_differ_by_case_are_said(photos, capsys):
    run(listed(photos, "00.jpg,Robin\n01.jpg, Robin \n02.jpg,robin\n"), "--val", 0)
    assert "2 classes differ from another by upper case alone: 'Robin', 'robin'" in capsys.readouterr().out


def test_pictures_that_no_list_labels_are_named(photos, capsys):
    (photos / "more").mkdir()
    (photos / "11.jpg").rename(photos / "more" / "11.jpg")
    rows = "".join(f"./{path},{label}\n" for path, label in TWELVE[1:10])
    target = run(listed(photos, rows))
    note = "3 of 12 pictures have no label in the list: '00.jpg', '10.jpg', 'more/11.jpg'; left out"
    assert note in capsys.readouterr().out.splitlines() and note in json.loads((target / "dataset.json").read_text())["notes"]


def test_a_closed_folder_beside_listed_pictures(photos, capsys, monkeypatch):
    def refuse(*args):
        raise ValueError("private cannot be read")

    monkeypatch.setattr(photo_lists, "images_below", refuse)
    assert len(contents(run(listed(photos, "00.jpg,a\n01.jpg,b\n"), "--val", 0))) == 2
    assert "pictures without a label in the list were not looked for: private cannot be read" in capsys.readouterr().out


def test_classes_that_a_given_val_lacks_are_named(photos, capsys):
    rows = "".join(f"{path},{label},{'val' if path == '00.jpg' else 'train'}\n" for path, label in TWELVE)
    run(listed(photos, rows))
    out = capsys.readouterr().out
    assert "1 of 2 classes have no picture in val: 'dog'" in out and "no label in the list" not in out


def test_a_single_class_is_said(photos, capsys):
    run(listed(photos, "00.jpg,wren\n01.jpg,wren\n"), "--val", 0)
    assert "the data set has a single class, 'wren': a classifier needs two" in capsys.readouterr().out


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


def test_columns_by_name(photos):
    rows = "".join(f"{path};{label};{label}s;{int(path[:2]) // 2}\n" for path, label in TWELVE)
    listed(photos, f"path;label;Plural;Nest box\n{rows}")
    target = run(photos, "--label", "Plural", "--group", "Nest box", "--val", "0.3", "--seed", "4")
    splits = {int(Path(name).stem): name.split("/")[0] for name in contents(target)}
    assert all(splits[index] == splits[index + 1] for index in range(0, 12, 2)) and len({*splits.values()}) == 2
    assert sorted(path.name for path in (target / "train").iterdir()) == ["cats", "dogs"]


def test_columns_that_were_taken_are_said(photos, capsys):
    rows = "".join(f"{path};{label};{path[0]};5\n" for path, label in TWELVE)
    target = run(listed(photos, f"Datei;Art;Individuum;Größe\n{rows}"), "--label", "Art")
    note = "list.csv: label: 'Art'; no group; unused: 'Individuum', 'Größe'"
    assert note in capsys.readouterr().out.splitlines() and len(contents(target)) == 12
    assert json.loads((target / "dataset.json").read_text())["notes"][0] == note
    shutil.rmtree(target)
    run(photos, "--label", "Art", "--group", "Individuum", "--val", 0)
    assert "list.csv: label: 'Art'; group: 'Individuum'; unused: 'Größe'" in capsys.readouterr().out
    shutil.rmtree(target)
    run(listed(photos, "".join(f"{path},{label},train,{path}\n" for path, label in TWELVE)))
    assert "list.csv: label: 'column 2'; group: 'column 4'; split: 'column 3'\n" in capsys.readouterr().out


def test_headers_that_are_not_known(photos, capsys):
    rows = "Datei;Vorschau;Art\n00.jpg;x.jpg;wren\n01.jpg;02.jpg;wren\n"
    message = error_of(capsys, listed(photos, rows), "--label", "Art")
    assert "the columns 'Datei', 'Vorschau' name pictures: call the one that counts path" in message
    message = error_of(capsys, listed(photos, rows.replace("02", "y")))
    assert (
        "'Datei', 'Vorschau', 'Art' is known as that of labels: choose it by --label, and that of groups by --group;" in message
    )
    (photos / "wren").mkdir()
    message = error_of(capsys, listed(photos, "datum,temperatur\n2024-05-01,7\n"))
    assert "by --label, and that of groups by --group, or give --list none: class folders" in message


def test_headers_that_are_known_are_documented():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    assert all(f"`{column}` | {', '.join(f'`{name}`' for name in names.split())} |" in text for column, names in COLUMNS.items())


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
