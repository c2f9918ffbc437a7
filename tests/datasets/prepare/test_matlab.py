"""MATLAB files as SciPy writes them, and damaged ones, at which SciPy's own reader ends the process."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from sources import cells

from datasets.prepare.matlab import read_variables

FIELDS = [("fname", object), ("class", object), ("box", object)]
VARIABLES = {
    "number": 7.5,
    "row": np.arange(300, dtype=np.uint8)[None],
    "table": np.array([[1, 2], [3, -4]], dtype=np.int16),
    "text": "Käfer",
    "lines": np.array(["ab ", "cde"]),
    "names": cells(["F/A-18", "", "Cessna, 172"]),
    "nested": cells([cells(["x", "y"]), np.array([[1.0, 2.0]])]),  # type: ignore[list-item]
    "rows": np.array([("a.jpg", 3, [[1, 2]]), ("b.jpg", 4, [[3, 4]])], dtype=FIELDS)[None],
    "nothing": np.zeros((0, 0)),
}
EXPECTED = {
    "number": 7.5,
    "row": [n % 256 for n in range(300)],
    "table": [1, 3, 2, -4],
    "text": "Käfer",
    "lines": ["ab", "cde"],
    "names": ["F/A-18", "", "Cessna, 172"],
    "nested": [["x", "y"], [1.0, 2.0]],
    "rows": [{"fname": "a.jpg", "class": 3, "box": [1, 2]}, {"fname": "b.jpg", "class": 4, "box": [3, 4]}],
    "nothing": [],
}


@pytest.mark.parametrize("compressed", [False, True])
def test_variables_are_those_that_scipy_wrote(tmp_path, compressed):
    savemat(tmp_path / "a.mat", VARIABLES, do_compression=compressed)
    assert read_variables(tmp_path / "a.mat") == EXPECTED


def test_letters_of_two_bytes_and_the_other_order(tmp_path):
    """As MATLAB itself writes text, and as machines with the other order of bytes do."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    text = "".join(a + b for a, b in zip("cat", "dog", strict=True)).encode("utf-16-be")  # two rows, columns first
    parts = element(6, struct.pack(">II", 4, 0)) + element(5, struct.pack(">ii", 2, 3)) + element(1, b"x") + element(4, text)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    (tmp_path / "a.mat").write_bytes(header + element(14, parts))
    assert read_variables(tmp_path / "a.mat") == {"x": ["cat", "dog"]}


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_refused(tmp_path, compressed):
    path = tmp_path / "a.mat"
    savemat(path, VARIABLES, do_compression=compressed)
    data, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(124, len(damaged))] = rng.choice([0, 1, 255, rng.randrange(256)])
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        try:
            read_variables(path)
        except (ValueError, zlib.error) as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 200
    assert refused > 150


def bomb(path: Path) -> None:
    packed = zlib.compress(bytes(3 * 10**6))
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed)


def without_parts(path: Path) -> None:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<IIIIII", 14, 16, 6, 8, 4, 0))


def deep(path: Path) -> None:
    value: object = "x"
    for _ in range(30):
        value = cells([value])  # type: ignore[list-item]
    savemat(path, {"a": value})


def older(path: Path) -> None:
    savemat(path, {"a": 1}, format="4")


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (bomb, "of more than 1,000,000 bytes"),
        (deep, "cells in cells"),
        (without_parts, "lacks a part"),
        (older, "no header of level 5"),
    ],
)
def test_hostile_and_old_files_are_refused(tmp_path, monkeypatch, write, expected):
    monkeypatch.setattr("datasets.prepare.matlab.LARGEST", 10**6)
    write(tmp_path / "a.mat")
    with pytest.raises(ValueError, match=expected):
        read_variables(tmp_path / "a.mat")
