"""Lists in workbooks of spreadsheets, as Excel, LibreOffice and openpyxl write them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from sources import error_of, picture, run

from datasets.prepare.workbooks import _column, read_workbook

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


SHEET = "worksheets/sheet1.xml"


def workbook(
    path: Path, sheet: str, strings: list[str] | None = None, sheets: int = 1, target: str = "worksheets/sheet1.xml"
) -> None:
    """A workbook of one sheet of rows in XML; `strings`: the shared ones, in XML."""
    names = "".join(f'<sheet name="List {n}" sheetId="{n}" r:id="rId{n}"/>' for n in range(1, sheets + 1))
    links = "".join(f'<Relationship Id="rId{n}" Type="{OFFICE}/worksheet" Target="{target}"/>' for n in range(1, sheets + 1))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>')
        parts.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}">{links}</Relationships>')
        parts.writestr("xl/worksheets/sheet1.xml", f'<worksheet xmlns="{MAIN}"><sheetData>{sheet}</sheetData></worksheet>')
        if strings is not None:
            items = "".join(f"<si>{item}</si>" for item in strings)
            parts.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{items}</sst>')


def inline(rows: list[list[str]]) -> str:
    cells = [["<c t='inlineStr'><is><t>" + escape(cell) + "</t></is></c>" for cell in row] for row in rows]
    return "".join(f"<row>{''.join(row)}</row>" for row in cells)


def test_cells_of_all_kinds(tmp_path, capsys):
    strings = ["<t>path</t>", "<t>label</t>", "<r><t>F/A</t></r><r><rPr/><t>-18</t></r><rPh><t>reading</t></rPh>", "<t/>"]
    sheet = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>'
        '<row r="3"><c r="B3" t="s"><v>2</v></c></row><row r="4"/>'
        '<row r="7"><c r="A7" t="inlineStr"><is><t>a.jpg </t></is></c><c r="C7"><v>12</v></c>'
        '<c r="D7" t="str"><f>A1</f><v>x</v></c></row>'
        '<row r="8"><c r="A8" t="s"><v>3</v></c></row>'
    )
    workbook(tmp_path / "a.xlsx", sheet, strings, sheets=2)
    rows = [(1, ["path", "label"]), (3, ["", "F/A-18"]), (7, ["a.jpg", "", "12", "x"])]
    assert read_workbook(tmp_path / "a.xlsx") == rows
    assert "has 2 sheets, of which the first is read" in capsys.readouterr().out
    workbook(tmp_path / "a.xlsx", sheet, strings, target="/xl/worksheets/sheet1.xml")
    assert read_workbook(tmp_path / "a.xlsx") == rows
    assert [_column(name) for name in ("A1", "Z9", "AA1", "AB3", "XFD1")] == [0, 25, 26, 27, 16383]


def test_a_list_in_a_workbook(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        (source / f"{number}.jpg").write_bytes(picture(seed=number))
    rows = [["Photo", "Class", "Burst"], *([f"{n}.jpg", "Boeing, 737", str(n // 2)] for n in range(6))]
    workbook(source / "list.xlsx", inline(rows))
    (source / "~$list.xlsx").write_bytes(b"lock of Excel")
    target = run("folder", source, "--val", 0.5)
    splits = {int(path.stem): path.parts[-3] for path in target.glob("[tv]*/Boeing, 737/*.jpg")}
    assert all(splits[n] == splits[n + 1] for n in (0, 2, 4)) and {*splits.values()} == {"train", "val"}
    assert len(list(run("folder", source, "--val", 0, "--label", "Burst", out=tmp_path / "b").glob("train/*"))) == 3
    assert "'9.jpg' in" in error_of_rows(source, [*rows, ["9.jpg", "a", "1"]], capsys)
    assert "--label Klass" in error_of(capsys, "folder", source, "--label", "Klass", out=tmp_path / "c")


def error_of_rows(source: Path, rows: list[list[str]], capsys: pytest.CaptureFixture[str]) -> str:
    workbook(source / "list.xlsx", inline(rows))
    return error_of(capsys, "folder", source, out=source.parent / "c")


@pytest.mark.parametrize(
    ("sheet", "strings", "expected"),
    [
        ('<row><c t="s"><v>5</v></c></row>', ["<t>a</t>"], "is damaged or no workbook"),
        ('<row><c r="A1"><v>1</v></c><c r="A1"><v>1</v></c></row>', None, "a cell in column 1 of row 1"),
        ('<row><c r="XFD1"><v>1</v></c></row>', None, "a cell in column 16384 of row 1"),
        ('<row><c r="#REF"><v>1</v></c></row>', None, "a cell '#REF'"),
        ("<row><c>", None, "is damaged or no workbook"),
    ],
)
def test_wrong_workbooks_are_refused(tmp_path, sheet, strings, expected):
    workbook(tmp_path / "a.xlsx", sheet, strings)
    with pytest.raises(ValueError, match="save it as CSV") as caught:
        read_workbook(tmp_path / "a.xlsx")
    assert expected in str(caught.value)


def test_an_empty_workbook(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    workbook(tmp_path / "source" / "list.xlsx", "<row/>")
    assert "list.xlsx: lists no picture; expected columns path,label" in error_of(capsys, "folder", tmp_path / "source")


def test_a_directory_that_points_before_the_file(tmp_path):
    workbook(tmp_path / "a.xlsx", inline([["a.jpg", "b"]]))
    data = bytearray((tmp_path / "a.xlsx").read_bytes())
    data[data.rindex(b"PK\5\6") + 16] += 100  # where the directory starts
    (tmp_path / "a.xlsx").write_bytes(data)
    with pytest.raises(ValueError, match="a.xlsx: is damaged .*Invalid argument.*; save it as CSV"):
        read_workbook(tmp_path / "a.xlsx")


def test_files_that_are_no_workbooks(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_bytes(b"\xd0\xcf\x11\xe0 of before 2007, or with a password")
    with pytest.raises(ValueError, match="is damaged or no workbook .*; save it as CSV"):
        read_workbook(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as parts:
        parts.writestr("content.xml", "<x/>")
    with pytest.raises(ValueError, match="is a workbook of another form .*; save it as CSV"):
        read_workbook(tmp_path / "a.xlsx")
    monkeypatch.setattr("datasets.prepare.workbooks.LARGEST", 1000)
    workbook(tmp_path / "a.xlsx", inline([["a.jpg", "b"]] * 100))
    with pytest.raises(ValueError, match=r"xl/worksheets/sheet1.xml has .* bytes"):
        read_workbook(tmp_path / "a.xlsx")
