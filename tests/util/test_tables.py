"""CSV files: names are text in a spreadsheet, numbers are numbers for every reader."""

from __future__ import annotations

import csv
from pathlib import Path

from util.tables import markdown_table, write_csv


def test_no_name_is_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    names = ['=HYPERLINK("http://x","y")', "+1+1", "-a", "@SUM(1)", "＝1", "a=b", "caf\udce9", 'a,"b"\nc', "\x1b[1m\u200d"]
    numbers = [-1, -0.5, 3, "-0.50", "+1e-3", ""]
    write_csv(tmp_path / "a.csv", ["-x", *names[1:5]], [names, numbers])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        heads, texts, values = csv.reader(file)
    assert heads == ["'-x", *(f"'{name}" for name in names[1:5])]
    assert texts == [*(f"'{name}" for name in names[:5]), "a=b", "caf\\xe9", 'a,"b"\\nc', "\\x1b[1m\u200d"]
    assert values == ["-1", "-0.5", "3", "-0.50", "+1e-3", ""]


def test_no_name_breaks_a_markdown_table() -> None:
    lines = markdown_table(["class", "n"], [["a|b\nc\x1b[1m", "1"]], text_columns=1).split("\n")
    assert lines == ["| class | n |", "|---|---:|", r"| a\|b\nc\x1b[1m | 1 |"]
