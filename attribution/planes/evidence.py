"""Factorial planes as ground truth: the record of every picture, and the masks that a map can be held against.

A mask is drawn again from the record's seed z, at the size that is asked for: the eval transforms resize a (square) picture
as a whole, so that a mask of the model's input size lies where the model sees its part. Cost on one core at 128-224 pixels:
2-5 ms for the evidence of a pair, 7-20 ms for a render with all its masks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.decode import decode_image
from datasets.planes.export import JPG_QUALITY
from datasets.planes.renderer import VERSION, Preset, Variants, class_name, counterfactual, get_preset, pair_evidence, render

Record = Mapping[str, Any]

TOLERANCE = 3  # grey levels by which another JPEG library may differ


@dataclass(frozen=True)
class PlanesSplit:
    """The records of one split.

    root: folder of the data set. split: train, val or test. preset: its classes and slots. classes: names in the order of
    the logits. records: `<split>/<class>/<stem>.<format>` -> record.
    """

    root: Path
    split: str
    preset: Preset
    classes: tuple[str, ...]
    records: dict[str, Record]

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots in which classes differ."""
        return tuple(slot for slot, variants in self.preset.slots.items() if len(variants) > 1)

    def record(self, path: Path | str) -> Record:
        """The record of a picture.

        Raises:
            ValueError: the picture is not one of the split's.
        """
        key = "/".join(Path(path).parts[-3:])
        if key not in self.records:
            raise ValueError(f"{path}: not in {self.root}/annotations/{self.split}.jsonl; remove it, or make the data set again")
        return self.records[key]

    def label(self, variants: Mapping[str, str | None]) -> int:
        """Index of the class with these variants."""
        return self.classes.index(class_name(variants))


def is_planes(root: Path) -> bool:
    """Whether a data set was made by tools.make_planes."""
    return (root / "planes.json").is_file()


def open_planes(root: Path, split: str, classes: Sequence[str] | None = None) -> PlanesSplit:
    """Read what is known about a split.

    Args:
        root: folder of a data set of tools.make_planes.
        split: train, val or test.
        classes: the model's class names in the order of its logits; None for the data set's own.

    Raises:
        ValueError: a file is missing or damaged, was made by another version of the renderer, or the classes are others.
    """
    again = "make the data set again with tools.make_planes"
    description = _read_json(root / "planes.json")
    if description.get("version") != VERSION:
        raise ValueError(f"{root}/planes.json: renderer version {description.get('version')}, not {VERSION}: {again}")
    preset = get_preset(str(description.get("preset")))
    names = tuple(classes or preset.classes)
    if strange := sorted(set(names) ^ set(preset.classes)):
        where = "the model lacks it" if strange[0] in preset.classes else "the data set lacks it"
        raise ValueError(f"{root}: class '{strange[0]}': {where}; model and data set must have the same classes")
    path = root / "annotations" / f"{split}.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        by_file = {record["file"]: record for record in records}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: a line is no record; {again}") from None
    if not by_file:
        raise ValueError(f"{path}: the split {split} has no pictures; choose another or {again}")
    return PlanesSplit(root, split, preset, names, by_file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected the folder of a data set of tools.make_planes") from None
    except ValueError:
        raise ValueError(f"{path}: is not JSON; make the data set again with tools.make_planes") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no JSON object; make the data set again with tools.make_planes")
    return content


def check_picture(split: PlanesSplit, record: Record) -> None:
    """Make sure that a stored picture is what its record renders to: else no mask would be true.

    Raises:
        ValueError: it differs by more than `TOLERANCE` grey levels anywhere (after the same compression, if it is a JPEG).
    """
    path = split.root / record["file"]
    stored = decode_image(path).permute(1, 2, 0).numpy().astype(np.int16)  # [H, W, 3]
    drawn = counterfactual(record).image
    if path.suffix == ".jpg":
        encoded = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPG_QUALITY])[1]
        drawn = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    if stored.shape != drawn.shape or np.abs(stored - drawn).max() > TOLERANCE:
        raise ValueError(f"{path}: is not what its record renders to: it was changed; make the data set again")


def sibling(preset: Preset, record: Record, slot: str) -> Variants:
    """The class that differs from the record's in `slot` alone. Where there are several, the seed of the picture chooses."""
    own = record["variants"][slot]
    others = [variant for variant in preset.slots[slot] if variant != own]
    # z // 3: the lowest digit to base 3 tells the split.
    return {**record["variants"], slot: others[record["z"] // 3 % len(others)]}


def evidence(record: Record, other: Mapping[str, str | None], size: int | None = None) -> np.ndarray:
    """E(c, d) of a picture of class c and another class d: the union of the differing slots' amodal masks in both renders.

    Args:
        record: of the picture.
        other: the variants of d; those that are left out are c's.
        size: side in pixels; None for the picture's own.

    Returns:
        bool `[size, size]`.
    """
    return pair_evidence({**record, "size": size or record["size"]}, other)


def part_masks(record: Record, size: int | None = None) -> dict[str, np.ndarray]:
    """Amodal masks bool `[size, size]` of the parts of a picture, fuselage and wings included; an absent part has none."""
    drawn = render(record["variants"], record["z"], size or record["size"], roundel=record.get("roundel"), sensor=False)
    return drawn.amodal
