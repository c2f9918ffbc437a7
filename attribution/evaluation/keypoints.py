"""Ground truth of parts: the key points of pictures and the object's box, and on planes the part of every pixel.

The key points of a prepared data set are in its annotations.json (`tools.prepare_dataset cub` and `nabirds` write them), in
pixels of the stored picture, before EXIF turns it; those of a planes data set are in its records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.decode import open_image, orientation
from datasets.planes.dataset import PlanesSplit
from datasets.planes.parts import PARTS
from datasets.planes.renderer import render

ANNOTATIONS = "annotations.json"
FORM = 'expected {"<split>/<class>/<file>": {"box": [left, top, right, bottom], "parts": {"<part>": [x, y]}}}'


class KeyPoints(NamedTuple):
    """Key points of N pictures, `[N, G, 2]`, and boxes of their objects, `[N, 2, 2]`: left and top, right and bottom.

    All are (x, y) as shares of the upright picture's width and height; nan for a part that is not visible, and without a box.
    """

    points: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class PartAnnotations:
    """Parts of the pictures of a split.

    Attributes:
        split_root: folder of the split.
        names: of the G key points.
        planes: the records of a planes data set; None for another one.
        facts: `box` and `parts` by a picture's path below the data set, of annotations.json.
    """

    split_root: Path
    names: tuple[str, ...]
    planes: PlanesSplit | None = None
    facts: Mapping[str, Any] | None = None

    def key_points(self, pictures: Sequence[Path]) -> KeyPoints:
        """Return the key points of pictures of the split; an ImageError for a picture that cannot be read."""
        points = np.full((len(pictures), len(self.names), 2), np.nan)
        boxes = np.full((len(pictures), 2, 2), np.nan)
        for row, picture in enumerate(pictures):
            known, box = self._of_planes(picture) if self.planes else self._of_annotations(picture)
            for name, place in known.items():
                points[row, self.names.index(name)] = place
            boxes[row] = box
        return KeyPoints(points, boxes)

    def part_map(self, picture: Path, size: int) -> np.ndarray | None:
        """Return the part of each pixel at a side of `size`, uint8 `[size, size]`: 0 outside, else 1 + index of
        `datasets.planes.PARTS`; None where only key points are known."""
        if self.planes is None:
            return None
        record = self.planes.record(picture)
        return render(record["variants"], record["z"], size, roundel=record.get("roundel"), sensor=False).parts

    def _of_planes(self, picture: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
        assert self.planes is not None
        record = self.planes.record(picture)
        corners = np.array(list(record["boxes"].values()), float).reshape(-1, 2, 2) / record["size"]
        box = np.stack([corners[:, 0].min(0), corners[:, 1].max(0)])
        return {part: np.array(place) / record["size"] for part, place in record["keypoints"].items()}, box

    def _of_annotations(self, picture: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
        facts = (self.facts or {}).get(picture.relative_to(self.split_root.parent).as_posix(), {})
        box = np.full((2, 2), np.nan)
        if not facts:
            return {}, box
        with open_image(picture) as image:
            size, turn = np.array(image.size), orientation(image)
        if "box" in facts:
            corners = upright(np.array(facts["box"], float).reshape(2, 2) / size, turn)
            box = np.sort(corners, axis=0)
        return {part: upright(np.array(place) / size, turn) for part, place in facts.get("parts", {}).items()}, box


def upright(places: np.ndarray, turn: int) -> np.ndarray:
    """Return places (x, y) in shares of a stored picture, `[..., 2]`, as those of the picture that EXIF orientation turns."""
    x, y = places[..., 0], places[..., 1]
    turned = {2: (1 - x, y), 3: (1 - x, 1 - y), 4: (x, 1 - y), 5: (y, x), 6: (1 - y, x), 7: (1 - y, 1 - x), 8: (y, 1 - x)}
    return np.stack(turned.get(turn, (x, y)), -1)


def open_part_annotations(split_root: Path, planes: PlanesSplit | None = None) -> PartAnnotations | None:
    """Return the parts of a split's pictures, of planes or of the data set's annotations.json; None where there are none.

    Raises:
        ValueError: annotations.json cannot be read or has another form.
    """
    if planes is not None:
        return PartAnnotations(split_root, PARTS, planes)
    path = split_root.parent / ANNOTATIONS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = sorted({name for facts in content.values() for name in facts.get("parts", {})})
        for facts in content.values():
            places = [*facts.get("parts", {}).values(), *np.reshape(facts.get("box", []), (-1, 2))]
            if not np.isfinite(np.array(places, float).reshape(len(places), 2)).all():
                raise ValueError("a place is not finite")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {FORM}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: is not of the form of tools.prepare_dataset; {FORM}") from None
    return PartAnnotations(split_root, tuple(names), None, content) if names else None
