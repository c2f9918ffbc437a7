"""The CSV file of families: what is read, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from util.families import read_families

CLASSES = ["001.Robin", "wren"]


@pytest.mark.parametrize(
    "text",
    [
        "class,family\n001.Robin,song\nwren,song\n",
        "\ufeffNote,Family , Class\r\nx,song, 001.Robin\r\n,song,wren\r\n,sea,gull\r\n",  # as spreadsheets write it, and one more
        'class,family\nwren,song\nwren,"song"\n 001.Robin ,song\n\n',
    ],
)
def test_families_in_the_order_of_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.csv").write_text(text, encoding="utf-8")
    assert read_families(tmp_path / "f.csv", CLASSES) == ["song", "song"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "species,family\nwren,song\n",
            "its columns are 'species', 'family'; expected a CSV file with the columns class and family",
        ),
        ("", "its columns are none"),
        ("class,family\nWren,song\n001.Robin,song\n", "1 of 2 classes have no family: 'wren'; add them .it has 'Wren', which"),
        ("class,family\nwren,song\n001.Robin,\n", "1 of 2 classes have no family: '001.Robin'; add them$"),
        ("class,family\nwren,song\nwren,sea\n", "the class 'wren' has two families, 'song', 'sea': keep one of the rows"),
        ('class,family\nwren,"song\n', "unexpected end of data; expected"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_families(tmp_path / "f.csv", CLASSES)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read .No such file or directory.; expected"):
        read_families(tmp_path / "none.csv", CLASSES)
    (tmp_path / "f.csv").write_bytes(b"class,family\n\xff,x\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_families(tmp_path / "f.csv", CLASSES)
