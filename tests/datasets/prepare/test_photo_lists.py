"""Lists of photographs as CSV and text: delimiters, columns, splits, names, and what is refused and said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from photographs import TWELVE, contents, error_of, listed, run, write_picture

from datasets.image_folder import open_split
from datasets.prepare import photo_lists
from datasets.prepare.photo_lists import COLUMNS


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


def test_the_limit_is_of_each_split_that_the_list_gives(photos, capsys):
    rows = "".join(f"{path},{label},{'val' if path[1] in '15' else 'train'}\n" for path, label in TWELVE)
    listed(photos, rows)
    target = run(photos, "--limit_per_class", 1)
    assert sorted(name.rpartition("/")[0] for name in contents(target)) == ["train/cat", "train/dog", "val/cat", "val/dog"]
    assert "4 of 12 pictures are taken: at most 1 of each class in each split" in capsys.readouterr().out


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
