"""MATLAB files as SciPy writes them, and damaged ones, at which SciPy's reader may end its process."""

from __future__ import annotations

import os
import random
import signal

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
    "names": ["F/A-18", [], "Cessna, 172"],
    "nested": [["x", "y"], [1.0, 2.0]],
    "rows": [{"fname": "a.jpg", "class": 3, "box": [1, 2]}, {"fname": "b.jpg", "class": 4, "box": [3, 4]}],
    "nothing": [],
}


@pytest.mark.parametrize("compressed", [False, True])
def test_variables_are_those_that_scipy_wrote(tmp_path, compressed):
    savemat(tmp_path / "a.mat", VARIABLES, do_compression=compressed)
    assert read_variables(tmp_path / "a.mat") == EXPECTED


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_refused(tmp_path, compressed):
    path = tmp_path / "a.mat"
    savemat(path, VARIABLES, do_compression=compressed)
    data, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(124, len(damaged))] = rng.choice([0, 1, 255, rng.randrange(256)])
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        try:
            read_variables(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 200
    assert refused > 8


def crash(*args: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_reader_that_crashes_or_takes_too_much_memory_is_an_error(tmp_path, monkeypatch):
    # 64 MB: beyond 32 MB memory always comes from the system, not from what the process has and does not use.
    savemat(tmp_path / "a.mat", {"a": np.zeros((8000, 8000), np.uint8)}, do_compression=True)
    monkeypatch.setattr("datasets.prepare.matlab.LARGEST", 10**7)
    with pytest.raises(ValueError, match="more than 10,000,000 bytes"):
        read_variables(tmp_path / "a.mat")
    monkeypatch.setattr("scipy.io.loadmat", crash)
    with pytest.raises(ValueError, match="SciPy's reader crashed"):
        read_variables(tmp_path / "a.mat")
    with pytest.raises(FileNotFoundError):
        read_variables(tmp_path / "b.mat")
