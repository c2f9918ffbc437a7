"""Tables in Markdown and as CSV files."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .printable import printable

FORMULA = tuple("=+-@＝＋－＠")  # the last four: full width


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int | None = None) -> str:
    """Return a Markdown table; columns after the first `text_columns` (None: all) are numbers, aligned to the right.

    What does not print is escaped, and so are bars, which would end a cell.
    """
    count = len(heads) if text_columns is None else text_columns
    lines = ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * count + "---:|" * (len(heads) - count), *lines[1:]])


def write_csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; texts are printable, and no spreadsheet takes one for a formula: an apostrophe is in front."""
    with atomic_write(path) as file:
        for row in itertools.chain([heads], rows):
            csv.writer(file).writerow([_text(cell) if isinstance(cell, str) else cell for cell in row])


def _text(cell: str) -> str:
    cell = printable(cell)
    if not cell.startswith(FORMULA):
        return cell
    with suppress(ValueError):
        float(cell)
        return cell  # a number
    return f"'{cell}"


def replace_table(page: str, name: str, table: str) -> str:
    """Return a page of Markdown with `table` between its markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    before, begin, rest = page.partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    return f"{before}{begin}{table}\n{end}{after}"
