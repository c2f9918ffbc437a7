"""Possible shortcuts on the page of a report: gathered from its images, drawn at their place, and told in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from attribution.report.page import PICTURES, picture_name
from attribution.report.shortcuts import SIDE, ClassEvidence, draw_alarm, shortcuts_section

CORNER = (0, 0.75, 0.25, 1)


def marked_map(corner: bool, rng: np.random.Generator) -> np.ndarray:
    values = 0.1 * rng.random((8, 8))
    values[rng.integers(0, 7), rng.integers(2, 8)] += 4
    values[-1, 0] += 8 * corner
    return values


def test_an_alarm_is_drawn_with_its_place() -> None:
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(marked_map(True, rng)) for _ in range(5)]
    pictures = [np.full((40, 60, 3), 10 * number, np.uint8) for number in range(5)]
    drawn = draw_alarm(pictures, maps, CORNER)
    assert drawn.shape == (SIDE, 5 * SIDE + 4 * 4, 3)
    mean, shown = drawn[:, :SIDE], drawn[:, SIDE + 4 : 2 * SIDE + 4]
    assert (mean[5, 80] == 20).all() and (mean[round(0.75 * (SIDE - 1)), 20] == (200, 0, 0)).all()
    corner, rest = (np.abs(area.astype(int) - 20).mean() for area in (shown[-30:-10, 10:30], shown[:80, 80:]))
    assert corner > 2 * rest, "the map is in the corner"


def test_classes_are_gathered_from_right_images_on_what_is_no_padding(tmp_path: Path) -> None:
    """The maps of wrong images would hide the mark; cells of the padding, and the mask, belong to their image."""
    rng = np.random.default_rng(1)
    labels = [0] * 12 + [1] * 12 + [2] * 12
    split: Any = SimpleNamespace(labels=labels, classes=["jay", "tit", "wren"], root=tmp_path / "val")
    evidence = ClassEvidence(split, tmp_path / "masks")
    (tmp_path / PICTURES).mkdir()
    for place, label in enumerate(labels):
        path = tmp_path / "val" / split.classes[label] / f"{place}.png"
        right = place % 12 < 9
        maps = np.full((2, 4, 8, 12), 99.0)  # the last four columns are padding; the first class is another
        maps[1, :, :, :8] = marked_map(label == 1 and right, rng)
        mask = np.zeros((64, 64), np.uint8)
        mask[:, 16:] = 255
        target = tmp_path / "masks" / "val" / split.classes[label] / f"{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mask)
        explained: Any = SimpleNamespace(right=right, true_row=1, padded_size=(64, 96), valid_size=(64, 64))
        evidence.add(SimpleNamespace(path=path, place=place), explained, maps)  # type: ignore[arg-type]
        cv2.imwrite(str(tmp_path / picture_name(place)), np.full((30, 40, 3), 80, np.uint8))
    found = evidence.write(tmp_path)
    assert found["images"] == found["masks"] == 27 and found["classes"] == 3
    assert [(alarm["class"], alarm["signal"], alarm["images"]) for alarm in found["alarms"]] == [
        ("tit", "place", 9), ("tit", "outside", 9),
    ]  # fmt: skip
    first = found["alarms"][0]
    assert first["box"][0] == 0 and first["box"][3] == 1 and first["share"] > 0.4 > first["expected"]
    assert cv2.imread(str(tmp_path / first["picture"])).shape[0] == SIDE
    text = "\n".join(shortcuts_section({"shortcuts": found}))
    assert "| tit | much evidence at one place of the frame | 0 %, 75 %, 25 %, 100 % |" in text
    assert "3 classes with at least 5 pictures" in text and "27 of them with a mask" in text


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    split: Any = SimpleNamespace(labels=[], classes=[], root=tmp_path)
    found = ClassEvidence(split, tmp_path / "masks").write(tmp_path)
    text = "\n".join(shortcuts_section({"shortcuts": found}))
    assert found["alarms"] == [] and "Not searched: no class" in text and "No class." not in text and shortcuts_section({}) == []
