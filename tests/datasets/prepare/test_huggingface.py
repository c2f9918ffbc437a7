"""Saved data sets of Hugging Face: Arrow files of `save_to_disk`, Parquet, image folders; without its library."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import error_of, picture, run

CLASSES = ["wren", "F/A-18"]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": CLASSES, "_type": "ClassLabel"},
    "id": {"dtype": "string", "_type": "Value"},
}


def rows_of(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "image": {"bytes": picture(seed=n, kind="PNG" if n % 3 == 0 else "JPEG"), "path": f"{n:03}.jpeg" if n % 2 else None},
            "label": n // 2 % 2,
            "id": f"r{n}",
        }
        for n in range(start, start + count)
    ]


def table(rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any] | None = None) -> Any:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-dev.txt)")
    made = pyarrow.Table.from_pylist(list(rows))
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features or FEATURES}})})


def saved(folder: Path, parts: Sequence[Sequence[Mapping[str, Any]]], features: Mapping[str, Any] | None = None) -> Path:
    """What `Dataset.save_to_disk` writes, and a file of a cache beside."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{n:05}-of-{len(parts):05}.arrow" for n in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        made = table(rows, features)
        import pyarrow

        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made, max_chunksize=2)
    (folder / "cache-0123456789abcdef.arrow").write_bytes(b"of another transform")
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or FEATURES, "splits": {}}))
    return folder


def parquet(path: Path, rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any] | None = None) -> None:
    made = table(rows, features)
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(made, path, row_group_size=3)


def contents(target: Path) -> dict[str, list[str]]:
    """Class and name of each picture, by split."""
    splits = [path for path in target.iterdir() if path.is_dir()]
    return {split.name: sorted(f"{path.parent.name}/{path.name}" for path in split.glob("*/*")) for split in splits}


def test_one_saved_set_is_split(tmp_path, capsys):
    source = saved(tmp_path / "source", [rows_of(0, 7), rows_of(7, 5)])
    target = run("folder", f"hf:{source}", "--val", 0.5, "--group", "id", out=tmp_path / "data")
    found = {path.stem: path for path in target.glob("[tv]*/*/*")}
    assert len(found) == 12 and {path.parent.name for path in found.values()} == {"wren", "F_A-18"}
    assert found["003"].read_bytes() == rows_of(3, 1)[0]["image"]["bytes"] and found["003"].name == "003.jpeg"
    assert sorted(path.suffix for path in found.values()) == [".jpeg"] * 6 + [".jpg"] * 4 + [".png"] * 2
    assert [path.name for path in target.parent.iterdir()] == ["folder"]
    assert json.loads((target / "dataset.json").read_text())["class_names"] == {"F_A-18": "F/A-18"}
    run("folder", source, "--val", 0.5, "--group", "id", out=tmp_path / "b")
    assert "is read as a saved Hugging Face data set (hf:)" in capsys.readouterr().out


def test_a_dictionary_of_splits(tmp_path, capsys):
    source = tmp_path / "source"
    saved(source / "train", [rows_of(0, 8)])
    saved(source / "validation", [rows_of(20, 2)])
    (source / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    target = run("folder", f"hf:{source}", out=tmp_path / "data")
    assert {split: len(names) for split, names in contents(target).items()} == {"train": 8, "val": 2}
    (source / "dataset_dict.json").write_text('{"splits": ["train", "unsupervised"]}')
    assert "the splits 'unsupervised' are not train, val or test" in error_of(
        capsys, "folder", f"hf:{source}", out=tmp_path / "b"
    )
    (source / "dataset_dict.json").write_text('{"splits": ["../../train"]}')
    assert "leads out of its folder" in error_of(capsys, "folder", f"hf:{source}", out=tmp_path / "b")
    (source / "dataset_dict.json").write_text('{"splits": ["gone"]}')
    assert "state.json: cannot be read" in error_of(capsys, "folder", f"hf:{source}", out=tmp_path / "b")


def test_parquet_of_the_hub(tmp_path):
    source = tmp_path / "source"
    for number in range(2):
        parquet(source / "data" / f"train-{number:05}-of-00002.parquet", rows_of(8 * number, 8))
    parquet(source / "data" / "test-00000-of-00001.parquet", rows_of(40, 3))
    target = run("folder", f"hf:{source}", out=tmp_path / "data")
    assert {split: len(names) for split, names in contents(target).items()} == {"train": 16, "val": 3}


@pytest.mark.parametrize(
    ("label", "feature", "more", "classes"),
    [
        ("label", None, [], ["0", "1"]),
        ("species", None, [], ["0", "1"]),
        ("fine", {"names": CLASSES, "_type": "ClassLabel"}, [], ["F_A-18", "wren"]),
        ("kind", None, ["--label", "kind"], ["0", "1"]),
    ],
)
def test_columns_of_labels(tmp_path, label, feature, more, classes):
    rows = [{"img": row["image"]["bytes"], label: row["label"]} for row in rows_of(0, 6)]
    parquet(tmp_path / "source" / "a.parquet", rows, {"img": {"_type": "Image"}, label: feature or {"_type": "Value"}})
    target = run("folder", tmp_path / "source", "--val", 0, *more)
    assert sorted(path.name for path in (target / "train").iterdir()) == classes


def test_rows_without_label_or_picture(tmp_path, capsys):
    rows = rows_of(0, 6)
    rows[1]["label"], rows[2]["label"] = -1, None
    source = saved(tmp_path / "source", [rows])
    target = run("folder", source, "--val", 0)
    assert len(contents(target)["train"]) == 4
    assert "2 of 6 pictures have no label" in json.loads((target / "dataset.json").read_text())["notes"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": 7}, "1 of 6 rows are wrong: data-00000-of-00001.arrow 2: label 7 of 2 classes"),
        ({"image": None}, "arrow 2: no picture"),
        ({"image": {"bytes": b"#!/bin/sh", "path": "x.jpg"}}, "arrow 2: the bytes of no known format"),
        ({"image": {"bytes": None, "path": "/etc/passwd"}}, "'/etc/passwd' is not in the data set"),
        ({"image": {"bytes": None, "path": "../../secret.jpg"}}, "'../../secret.jpg' is not in the data set"),
    ],
)
def test_wrong_rows(tmp_path, capsys, change, expected):
    (tmp_path / "secret.jpg").write_bytes(picture())
    rows = rows_of(0, 6)
    rows[1].update(change)
    source = saved(tmp_path / "source" / "set", [rows])
    message = error_of(capsys, "folder", f"hf:{source}", "--val", 0, out=tmp_path / "data")
    assert expected in message
    assert len(contents(run("folder", f"hf:{source}", "--val", 0, "--partial", out=tmp_path / "data"))["train"]) == 5


def test_pictures_in_files_of_their_own(tmp_path):
    rows = rows_of(0, 4)
    source = saved(tmp_path / "source", [rows])
    for number, row in enumerate(rows):
        name = f"{number}.{'png' if number % 3 == 0 else 'jpg'}"
        (source / name).write_bytes(row["image"]["bytes"])
        row["image"] = {"bytes": None, "path": str(source / name) if number % 2 else name}
    saved(source, [rows])
    assert contents(run("folder", source, "--val", 0))["train"] == ["F_A-18/2.jpg", "F_A-18/3.png", "wren/0.png", "wren/1.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("data-00000-of-00001.arrow", "x" * 100, "is damaged or missing"),
        ("data-00000-of-00001.arrow", None, "is damaged or missing"),
        ("state.json", "{}", "names no files"),
        ("state.json", "[" * 100000, "cannot be read"),
        ("state.json", '{"_data_files": [{"filename": "/etc/passwd"}]}', "leads out of its folder"),
        ("state.json", '{"_data_files": [], "_indices_data_files": [{}]}', "save it again after flatten_indices()"),
        ("state.json", '{"_data_files": []}', "no row has a picture and a label"),
    ],
)
def test_damaged_sets_are_refused(tmp_path, capsys, name, text, expected):
    source = saved(tmp_path / "source", [rows_of(0, 4)])
    (source / name).unlink() if text is None else (source / name).write_text(text)
    assert expected in error_of(capsys, "folder", f"hf:{source}", out=tmp_path / "data")


def test_a_file_that_is_cut(tmp_path, capsys):
    source = saved(tmp_path / "source", [rows_of(0, 6)])
    path = source / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-3000])
    assert "is damaged or missing" in error_of(capsys, "folder", source)
    parquet(tmp_path / "b" / "source" / "a.parquet", rows_of(0, 6))
    path = tmp_path / "b" / "source" / "a.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    assert "is damaged or missing" in error_of(capsys, "folder", path.parent)


def test_offsets_that_lead_out_of_a_file(tmp_path, capsys):
    made = table(rows_of(0, 4))
    import pyarrow

    offsets = pyarrow.py_buffer(np.array([0, 5, 2, 9, 12], dtype=np.int32).tobytes())
    names = pyarrow.StringArray.from_buffers(4, offsets, pyarrow.py_buffer(b"x" * 12))
    made = made.set_column(made.schema.get_field_index("id"), "id", names)
    source = saved(tmp_path / "source", [rows_of(0, 4)])
    with (
        pyarrow.OSFile(str(source / "data-00000-of-00001.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, made.schema) as stream,
    ):
        stream.write_table(made)
    assert "is damaged or missing" in error_of(capsys, "folder", source, "--group", "id")


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        ({"text": "x", "label": 1}, [], "has no column of images"),
        ({"image": b"x", "name": "y"}, [], "has no column of labels; choose one by --label"),
        (
            {"image": b"x", "class": "y", "category": "z"},
            [],
            "has several columns of labels, 'class', 'category': choose by --label",
        ),
        ({"left": b"x", "right": b"x", "label": "y"}, [], "has several columns of images, 'left', 'right': keep one of them"),
        ({"image": b"x", "label": "y"}, ["--label", "lable"], "--label lable"),
    ],
)
def test_columns_that_cannot_be_told_apart(tmp_path, capsys, row, more, expected):
    parquet(tmp_path / "source" / "a.parquet", [row], {"none": {}})
    assert expected in error_of(capsys, "folder", tmp_path / "source", *more)


def test_an_interrupted_run_is_continued(tmp_path, monkeypatch):
    source = saved(tmp_path / "source", [rows_of(0, 10)])
    from datasets.prepare import huggingface

    written: list[Path] = []
    write = Path.write_bytes

    def interrupt(path: Path, data: bytes) -> int:
        if len(written) == 5:
            written.append(path)
            raise KeyboardInterrupt
        written.append(path)
        return write(path, data)

    monkeypatch.setattr(huggingface.Path, "write_bytes", interrupt)
    with pytest.raises(SystemExit):
        run("folder", source, "--val", 0)
    assert len(contents(run("folder", source, "--val", 0))["train"]) == 10
    assert len(written) == 11


def test_without_pyarrow(tmp_path, capsys, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs the package pyarrow: pip install pyarrow" in error_of(capsys, "folder", tmp_path / "source")


def images(folder: Path, names: Sequence[str]) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed=seed))
    return folder


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_an_image_folder_with_splits(tmp_path, prefix):
    names = ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "validation/cat/5.jpg", "validation/dog/6.jpg"]
    source = images(tmp_path / "source", names)
    target = run("folder", f"{prefix}{source}", out=tmp_path / "data")
    assert contents(target) == {"train": ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], "val": ["cat/5.jpg", "dog/6.jpg"]}


def test_metadata_of_an_image_folder(tmp_path, capsys):
    source = images(tmp_path / "source", ["train/1.jpg", "train/sub/2.jpg", "test/3.jpg"])
    (source / "test" / "metadata.csv").write_text("file_name,label\n3.jpg,cat\n")
    lines = [{"file_name": "1.jpg", "label": "cat", "text": "one,\ntwo"}, {"file_name": "sub/2.jpg", "label": "cat", "x": None}]
    (source / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = contents(run("folder", f"hf:{source}", out=tmp_path / "data"))
    assert found == {"train": ["cat/1.jpg", "cat/2.jpg"], "val": ["cat/3.jpg"]}
    (source / "train" / "metadata.jsonl").write_text("[1]\n")
    assert "has lines that are no JSON objects" in error_of(capsys, "folder", f"hf:{source}", out=tmp_path / "b")
    (source / "train" / "metadata.jsonl").unlink()
    (tmp_path / "empty").mkdir()
    assert "no saved data set of Hugging Face" in error_of(capsys, "folder", f"hf:{tmp_path / 'empty'}", out=tmp_path / "b")
