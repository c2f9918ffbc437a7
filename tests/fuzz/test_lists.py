"""Lists of photographs and of pairs, and files of flags: what they say, or one line."""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets.masks import read_pairs
from datasets.prepare.photo_lists import read_list
from tests.fuzz.harness import JSON, NAMES, damaged, examples, is_one_line, watched
from tools.report import read_attribution
from util.cli import Parser, parse

FOLDER: list[Path] = []  # the tests write here; hypothesis calls a test many times with the fixtures of the first


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    """A folder with photographs and a pair."""
    FOLDER[:] = [tmp_path]
    for name in ("0.jpg", "1.png", "street.png", "street.A.png", "street.B.png"):
        Image.effect_noise((8, 6), 90).save(tmp_path / name)


def read(content: bytes | str, name: str, missing_allowed: bool = True) -> None:
    """Read a list: each of its pictures is in the folder, or it is refused in one line."""
    path = FOLDER[0] / name
    path.write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
    with watched(FOLDER[0], 100):
        try:
            rows = read_list(path, FOLDER[0], missing_allowed)
        except ValueError as error:
            assert is_one_line(error) and name in str(error)
            return
    for row in rows:
        assert row.path.is_relative_to(FOLDER[0]) and ".." not in row.path.parts and row.label.strip()


CELLS = st.sampled_from(["0.jpg", "1.png", "x.jpg", "wren", "train", "val", "path", "label", "split", "group", '"', ""]) | NAMES
ROWS = st.lists(st.lists(CELLS, max_size=5), max_size=6)


@examples(150)
@given(
    ROWS,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "sep=;\n", "\ufeff", "path,label\n"]),
)
def test_tables(rows: list[list[str]], delimiter: str, end: str, start: str) -> None:
    read(start + end.join(delimiter.join(cells) for cells in rows), "list.csv")


@examples(100)
@given(
    damaged([b'path,label,split\n0.jpg,wren,train\n1.png,"finch, green",val\n', "0.jpg;Ä\n1.png;Ö\n".encode("utf-16")])
    | st.binary()
)
def test_damaged_tables(content: bytes) -> None:
    read(content, "list.csv", missing_allowed=False)


ID = st.integers(0, 2) | JSON
FILE = st.sampled_from(["0.jpg", "1.png"]) | NAMES | JSON
IMAGE = st.fixed_dictionaries({"id": ID, "file_name": FILE}, optional={"seq_id": JSON, "split": JSON})
ANNOTATION = st.fixed_dictionaries({"image_id": ID, "category_id": ID}, optional={"bbox": st.lists(JSON, max_size=5) | JSON})
CATEGORY = st.fixed_dictionaries({"id": ID, "name": NAMES | JSON})
COCO = st.fixed_dictionaries(
    {
        key: st.lists(form | JSON if key == "images" else form, max_size=3) | JSON
        for key, form in (("images", IMAGE), ("annotations", ANNOTATION), ("categories", CATEGORY))
    }
)


@examples(200)
@given(COCO | JSON)
def test_json_of_coco(content: Any) -> None:
    read(json.dumps(content), "list.json")


@examples(60)
@given(st.lists(COCO | JSON | st.fixed_dictionaries({"path": FILE, "label": NAMES | JSON}), max_size=4))
def test_lines_of_json(contents: list[Any]) -> None:
    read("\n".join(map(json.dumps, contents)), "list.jsonl")


def workbook(change: Callable[[bytes], bytes] = bytes, part: str = "") -> bytes:
    """Return a workbook of two rows, with a change of one of its parts."""
    names = "http://schemas.openxmlformats.org/"
    cells = "".join(
        f'<row r="{row}"><c r="A{row}" t="s"><v>{row - 1}</v></c><c r="B{row}" t="inlineStr"><is><t>{label}</t></is></c></row>'
        for row, label in ((1, "label"), (2, "wren"))
    )
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{names}spreadsheetml/2006/main" xmlns:r="{names}officeDocument/2006/relationships">'
        '<sheets><sheet name="a" r:id="i"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships><Relationship Id="i" Target="sheet.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst xmlns="{names}spreadsheetml/2006/main"><si><t>path</t></si><si><t>0.jpg</t></si></sst>',
        "xl/sheet.xml": f'<worksheet xmlns="{names}spreadsheetml/2006/main"><sheetData>{cells}</sheetData></worksheet>',
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, change(text.encode()) if name == part else text)
    return file.getvalue()


BOOK = workbook()
BOMB = b'<!DOCTYPE a [<!ENTITY a "%s">%s]><a>&z;</a>' % (
    b"x" * 1000, b"".join(b'<!ENTITY %c "%s">' % (letter + 1, b"&%c;" % letter * 100) for letter in range(ord("a"), ord("z")))
)  # fmt: skip


@examples(60)
@given(st.data(), st.sampled_from(["", "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/sharedStrings.xml", "xl/sheet.xml"]))
def test_workbooks(data: st.DataObject, part: str) -> None:
    change = lambda text: data.draw(damaged([text]) | st.just(BOMB) | st.binary(max_size=20))  # noqa: E731
    read(workbook(change, part) if part else data.draw(damaged([BOOK])), "list.xlsx")


def test_a_whole_workbook_is_read() -> None:
    (FOLDER[0] / "list.xlsx").write_bytes(BOOK)
    assert [(row.name, row.label) for row in read_list(FOLDER[0] / "list.xlsx", FOLDER[0])] == [("0.jpg", "wren")]


TEXTS = (
    st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "[1e999, NaN]", "\ufeff[]", '"\\ud800"', "[\0]"]) | st.text()
)


@examples(60)
@given(TEXTS | st.binary())
def test_texts_that_are_no_json(content: str | bytes) -> None:
    read(content, "list.json")
    pairs(content)
    (FOLDER[0] / "attribution.json").write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
    with pytest.raises(ValueError) as error:
        read_attribution(FOLDER[0] / "attribution.json")
    assert is_one_line(error.value)


def pairs(content: bytes | str) -> None:
    """Read a list of pairs, or see it refused in one line."""
    path = FOLDER[0] / "pairs.json"
    path.write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
    with watched(FOLDER[0], 100):
        try:
            read_pairs(path, ["finch", "wren"])
        except ValueError as error:
            assert is_one_line(error) and "/" in str(error)  # it names a file


ENTRY = st.fixed_dictionaries(
    {
        "file": st.sampled_from(["street.png", ".", "/", "0.jpg"]) | NAMES | JSON,
        "A": st.sampled_from(["finch", "wren"]) | NAMES | JSON,
        "B": st.sampled_from(["finch", "wren"]) | NAMES | JSON,
    }
)


@examples(200)
@given(st.lists(ENTRY, max_size=3) | JSON)
def test_json_of_pairs(content: Any) -> None:
    pairs(json.dumps(content))


def parser() -> Parser:
    """Return a parser of a few flags."""
    result = Parser("tool")
    result.add_argument("--number", type=int)
    result.add_argument("--text", default="")
    result.add_argument("words", nargs="*")
    return result


WORDS = st.sampled_from(
    ["--number", "3", "--text", "'a b'", '"', "'", "\\", "#", "@x.args", "@y.args", "@", "@.", "--", "\n", "\r\n", "=", "\0"]
)


@examples(150)
@given(
    st.builds(" ".join, st.lists(WORDS | NAMES, max_size=8))
    | st.binary()
    | damaged([b"--number 3\n--text 'a b'  # one\n@y.args\n"])
)
def test_files_of_flags(content: str | bytes) -> None:
    path = FOLDER[0] / "x.args"
    path.write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
    (FOLDER[0] / "y.args").write_text("--number 4 z")
    lines: list[str] = []
    tool = parser()
    tool._print_message = lambda message, file=None: lines.append(message)  # type: ignore[method-assign]
    with watched(FOLDER[0], 100):
        try:
            assert isinstance(parse(tool, [f"@{path}"]), argparse.Namespace)
        except SystemExit as stop:
            assert stop.code == 2 and len(lines) == 1, lines
            assert lines[0].startswith("tool: error: ") and lines[0].endswith("\n") and lines[0][:-1].isprintable()
