"""MATLAB files of level 5 (MathWorks, MAT-File Format): numbers, text, cells and structures.

SciPy's reader is not used: damaged files end the process (segmentation faults in its compiled code), which no message can report.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HEADER = 128  # bytes
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # of elements
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCTURE, TEXT, NUMBERS = 1, 2, 4, range(6, 16)  # classes of matrices
LARGEST = 2**28  # bytes of an unpacked variable
DEEPEST = 16  # cells in cells


def read_variables(path: Path) -> dict[str, Any]:
    """Return the variables of a file: numbers and text alone where there is one, else lists, columns first; structures are dicts.

    Raises:
        ValueError: it is damaged, of another level, or holds what is not read here.
    """
    data = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
    if len(data) < HEADER or not order or data[124:126] not in (b"\0\1", b"\1\0"):
        raise ValueError("no header of level 5")
    found = {}
    for kind, content in _elements(memoryview(data)[HEADER:], order):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            content = memoryview(unpacker.decompress(content, LARGEST))
            if not unpacker.eof:
                raise ValueError(f"a variable that ends early, or of more than {LARGEST:,} bytes")
            kind, content = next(_elements(content, order), (0, content))
        if kind == MATRIX and (matrix := _matrix(content, order, 0)):
            found[matrix[0]] = matrix[1]
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of each element; ValueError where one is longer than what is left."""
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise ValueError("it ends within an element")
        kind, size = np.frombuffer(data, f"{order}u4", 2, place).tolist()
        if kind >> 16:  # up to four bytes lie beside the type
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            end = start + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError(f"an element of {size:,} bytes, of which {len(data) - start:,} are there")
        yield kind, data[start : start + size]
        place = end


def _matrix(data: memoryview, order: str, depth: int) -> tuple[str, Any] | None:
    """Return name and value of a matrix; None for one of a class that is not read."""
    if not data:
        return "", []
    if depth > DEEPEST:
        raise ValueError("cells in cells in cells")
    elements = _elements(data, order)
    try:
        flags, sizes, name = next(elements), next(elements), next(elements)
        shape = _numbers(*sizes, order)
        count = math.prod(shape)
        kind = _numbers(*flags, order)[0] & 0xFF
        if kind == CELL:
            value: Any = _cells(elements, order, count, len(data), depth)
        elif kind == STRUCTURE:
            (width, *_), names = _numbers(*next(elements), order), bytes(next(elements)[1])
            keys = [names[start : start + width].split(b"\0")[0].decode("latin-1") for start in range(0, len(names), width)]
            cells = _cells(elements, order, count * len(keys), len(data), depth)
            value = [dict(zip(keys, cells[row * len(keys) :], strict=False)) for row in range(count if keys else 0)]
        elif kind == TEXT:
            value = _text(*next(elements), order, shape[0] if count else 0)
        elif kind in NUMBERS:
            value = _numbers(*next(elements), order)
            if len(value) != count:
                raise ValueError(f"{len(value):,} numbers, expected {count:,}")
        else:
            return None
    except (StopIteration, IndexError):
        raise ValueError("a matrix that lacks a part") from None
    return bytes(name[1]).decode("latin-1"), value[0] if len(value) == 1 and kind not in (CELL, STRUCTURE) else value


def _cells(elements: Iterator[tuple[int, memoryview]], order: str, count: int, size: int, depth: int) -> list[Any]:
    """Return the values of as many matrices."""
    if not 0 <= count <= size // 8:
        raise ValueError(f"{count:,} cells in {size:,} bytes")
    found = [_matrix(content, order, depth + 1) for kind, content in elements if kind == MATRIX]
    if len(found) != count:
        raise ValueError(f"{len(found):,} cells, expected {count:,}")
    return [matrix[1] if matrix else None for matrix in found]


def _numbers(kind: int, data: memoryview, order: str) -> list[Any]:
    if kind not in TYPES:
        raise ValueError(f"numbers of type {kind}")
    return np.frombuffer(data, order + TYPES[kind]).tolist()


def _text(kind: int, data: memoryview, order: str, rows: int) -> list[str]:
    """Return the rows of a matrix of letters, whose columns are stored one after the other."""
    if kind not in TEXTS:
        raise ValueError(f"text of type {kind}")
    encoding = TEXTS[kind] + ({"<": "-le", ">": "-be"}[order] if TEXTS[kind] in ("utf-16", "utf-32") else "")
    text = bytes(data).decode(encoding)
    if rows < 0 or rows > max(1, len(text)):
        raise ValueError(f"{rows:,} rows of {len(text):,} letters")
    return [text[row::rows].rstrip() for row in range(rows)] or [""]
