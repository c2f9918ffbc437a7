"""Lists of the official data sets: text files with a row per picture, and MATLAB files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets.prepare.matlab import read_variables
from util.errors import first_line
from util.printable import quoted


def read_rows(path: Path, columns: int) -> Iterator[list[str]]:
    """Yield the words of each row, the last with its spaces; rows that are empty or start with `#` are left out.

    Raises:
        ValueError: a row has fewer columns.
    """
    for row, line in enumerate(path.read_bytes().decode("utf-8", "surrogateescape").split("\n"), 1):
        words = line.strip().split(maxsplit=columns - 1)
        if not words or line.startswith("#"):
            continue
        if len(words) < columns:
            raise ValueError(f"{path}: row {row} is {quoted([line])}; expected {columns} columns: get the file again")
        yield words


def number(path: Path, text: Any) -> float:
    """Return a number of a list; a ValueError names the file."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: {quoted([str(text)])} is no number: get the file again")
    return value


def read_mat(path: Path, *names: str) -> list[list[Any]]:
    """Return variables of a MATLAB file as lists.

    Raises:
        ValueError: it is damaged, or lacks a variable.
    """
    try:
        content = read_variables(path)
    except ValueError as error:
        raise ValueError(f"{path}: is damaged or no MATLAB file ({first_line(error)}); get it again") from None
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path}: has no {quoted(missing)}; expected the file of the official set")
    return [value if isinstance(value, list) else [value] for value in (content[name] for name in names)]


def pick(path: Path, values: Sequence[Any], position: Any) -> Any:
    """Return the value at a position, counted from 1, that a file gives; a ValueError names the file if there is none."""
    place = number(path, position)
    if place != int(place) or not 1 <= place <= len(values):
        raise ValueError(f"{path}: {position} is not a whole number from 1 to {len(values)}: get the official files again")
    return values[int(place) - 1]
