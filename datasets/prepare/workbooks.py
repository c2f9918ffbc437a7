"""Workbooks of spreadsheets (.xlsx: ECMA-376): the cells of the first sheet as text."""

from __future__ import annotations

import errno
import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from datasets.prepare.archives import DAMAGES
from util.errors import first_line
from util.printable import short_name

WORKBOOKS = (".xlsx", ".xlsm")
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
LARGEST = 2**28  # bytes of a part, unpacked
COLUMNS = 1000  # a list has a handful


def read_workbook(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and cells of each row of the first sheet that is not empty.

    Raises:
        ValueError: it is damaged or no such workbook.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            sheet, count = _first_sheet(parts)
            texts = [_text(item) for item in _elements(parts, "xl/sharedStrings.xml", "si")]
            rows = list(_rows(parts, sheet, texts))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is a workbook of another form ({short_name(first_line(error), 200)}); save it as CSV"
        ) from None
    except (*DAMAGES, OSError, ElementTree.ParseError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a place before the file's beginning
            raise
        raise ValueError(f"{path}: is damaged or no workbook ({short_name(first_line(error), 200)}); save it as CSV") from None
    if count > 1:
        print(f"{path}: has {count} sheets, of which the first is read")
    return rows


def _open(parts: zipfile.ZipFile, name: str) -> IO[bytes]:
    if (size := parts.getinfo(name).file_size) > LARGEST:
        raise ValueError(f"{name} has {size:,} bytes")
    return parts.open(name)


def _first_sheet(parts: zipfile.ZipFile) -> tuple[str, int]:
    """Return the name of the first sheet's part, and the number of sheets."""
    with _open(parts, "xl/workbook.xml") as file:
        sheets = ElementTree.parse(file).findall(f"{MAIN}sheets/{MAIN}sheet")
    with _open(parts, "xl/_rels/workbook.xml.rels") as file:
        targets = {link.get("Id"): link.attrib["Target"] for link in ElementTree.parse(file).getroot()}
    return posixpath.normpath(posixpath.join("/xl", targets[sheets[0].get(LINK)])).lstrip("/"), len(sheets)


def _elements(parts: zipfile.ZipFile, name: str, tag: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of a part, which are forgotten after use; none without the part."""
    if name in parts.namelist():
        with _open(parts, name) as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == MAIN + tag:
                    yield element
                    element.clear()


def _text(element: ElementTree.Element) -> str:
    """Return the text of a string, whose parts may differ in style; without its reading aid (phonetic)."""
    runs = [element, *element.findall(f"{MAIN}r")]
    return "".join(part.text or "" for run in runs for part in run.findall(f"{MAIN}t"))


def _rows(parts: zipfile.ZipFile, sheet: str, texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    for row in _elements(parts, sheet, "row"):
        number = int(row.get("r") or number + 1)
        cells: list[str] = []
        for cell in row.findall(f"{MAIN}c"):
            column = _column(cell.get("r", "")) if cell.get("r") else len(cells)
            if not len(cells) <= column < COLUMNS:
                raise ValueError(f"a cell in column {column + 1} of row {number}")
            value, kind = cell.findtext(f"{MAIN}v") or "", cell.get("t")
            if kind == "s":
                value = texts[int(value)]
            elif kind == "inlineStr":
                value = "".join(_text(inline) for inline in cell.findall(f"{MAIN}is"))
            cells += [""] * (column - len(cells)) + [value.strip()]
        if any(cells):
            yield number, cells


def _column(reference: str) -> int:
    """Return the index of a cell's column: 0 of A1, 27 of AB3."""
    letters = re.match("[A-Z]{1,3}", reference)
    if not letters:
        raise ValueError(f"a cell {reference!r}")
    index = 0
    for letter in letters[0]:
        index = 26 * index + ord(letter) - ord("A") + 1
    return index - 1
