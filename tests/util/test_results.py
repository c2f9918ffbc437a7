"""Files of an evaluation, of few classes and of many."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from util import results
from util.results import write_results


def test_the_table_of_classes_is_that_of_the_whole_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = [f"c{index}" for index in range(7)]
    labels, predictions = rng.integers(0, 6, 200), rng.integers(0, 7, 200)  # no image of the last class
    write_results(tmp_path, classes, labels, predictions, {})
    matrix = np.zeros((7, 7), dtype=int)
    np.add.at(matrix, (labels, predictions), 1)
    read = list(csv.reader((tmp_path / "confusion_matrix.csv").open()))
    assert read[0][1:] == classes and [list(map(int, row[1:])) for row in read[1:]] == matrix.tolist()
    for index, row in enumerate(csv.DictReader((tmp_path / "per_class.csv").open())):
        errors = matrix[index] * (np.arange(7) != index)
        assert [int(row[name]) for name in ("images", "correct", "times")] == [
            matrix[index].sum(),
            matrix[index, index],
            errors.max(),
        ]
        assert row["most_confused_with"] == (classes[errors.argmax()] if errors.any() else "")
        assert row["precision"] == f"{100 * matrix[index, index] / matrix[:, index].sum():.2f}"
        assert row["acc1"] == (f"{100 * matrix[index, index] / matrix[index].sum():.2f}" if index < 6 else "")


def test_many_classes_take_memory_by_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the square of the classes: 10,000 of them would be 800 MB. The picture, of 50 classes, is another test's."""
    monkeypatch.setattr(results, "_draw", lambda path, confusion: None)
    count = 10_000
    labels = np.arange(count).repeat(2)
    predictions = labels.copy()
    predictions[:300:2] = 9_999  # the first 150 classes, once each
    tracemalloc.start()
    write_results(tmp_path, [f"c{index}" for index in range(count)], labels, predictions, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and sum(file.stat().st_size for file in tmp_path.iterdir()) < 2e6
    rows = list(csv.reader((tmp_path / "confusion_matrix.csv").open()))
    assert rows[:3] == [["true", "predicted", "images"], ["c0", "c0", "1"], ["c0", "c9999", "1"]] and len(rows) == 1 + count + 150
    first, *_, last = csv.DictReader((tmp_path / "per_class.csv").open())
    assert (first["acc1"], first["most_confused_with"], first["times"]) == ("50.00", "c9999", "1")
    assert (last["correct"], last["precision"]) == ("2", "1.32")


def test_the_picture_of_many_classes_shows_those_that_are_confused_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "DENSE", 5)
    monkeypatch.setattr(results, "NAMED", 3)
    labels, predictions = np.array([0, 1, 1, 2, 3, 4, 5, 5, 5]), np.array([0, 5, 5, 2, 3, 4, 1, 3, 5])
    confusion = results.Confusion.count("abcdef", labels, predictions)
    assert confusion.most_confused().tolist() == [1, 3, 5]
    assert confusion.dense(confusion.most_confused()).tolist() == [[0, 0, 2], [0, 1, 0], [1, 1, 1]]
    write_results(tmp_path, list("abcdef"), labels, predictions, {})
    assert (tmp_path / "confusion_matrix.png").stat().st_size > 0
