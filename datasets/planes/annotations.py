"""Reading a factorial-planes data set: the records of a split, and the check that its pictures are what they say."""

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
from datasets.planes.presets import Preset, class_name, get_preset
from datasets.planes.renderer import VERSION, counterfactual

Record = Mapping[str, Any]
TOLERANCE = 3  # grey levels by which another JPEG library may differ


@dataclass(frozen=True)
class PlanesSplit:
    """The annotations of one split of a planes data set.

    `classes` are names in the order of the logits; `records` maps `<split>/<class>/<stem>.<format>` to a record.
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
        """Return the record of a picture; raises a ValueError unless it is one of the split's."""
        key = "/".join(Path(path).parts[-3:])
        if key not in self.records:
            raise ValueError(f"{path}: not in {self.root}/annotations/{self.split}.jsonl; remove it, or make the data set again")
        return self.records[key]

    def label(self, variants: Mapping[str, str | None]) -> int:
        """Return the index of the class with these variants."""
        return self.classes.index(class_name(variants))


def is_planes(root: Path) -> bool:
    """Return whether a data set was made by tools.make_planes."""
    return (root / "planes.json").is_file()


def open_planes(root: Path, split: str, classes: Sequence[str] | None = None) -> PlanesSplit:
    """Read the annotations of a split of a data set of tools.make_planes.

    Args:
        classes: the model's class names in the order of its logits; None for the data set's own.

    Raises:
        ValueError: a file is missing or damaged, was made by another version of the renderer, or the classes are others.
    """
    again = "make the data set again with tools.make_planes"
    description = _read_description(root / "planes.json", again)
    if description.get("version") != VERSION:
        raise ValueError(f"{root}/planes.json: renderer version {description.get('version')}, not {VERSION}: {again}")
    preset = get_preset(str(description.get("preset")))
    names = tuple(classes or preset.classes)
    if unshared := sorted(set(names) ^ set(preset.classes)):
        where = "the model lacks it" if unshared[0] in preset.classes else "the data set lacks it"
        raise ValueError(f"{root}: class '{unshared[0]}': {where}; model and data set must have the same classes")
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


def check_picture(split: PlanesSplit, record: Record) -> None:
    """Check that a stored picture is what its record renders to: otherwise its ground truth would be wrong.

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


def _read_description(path: Path, again: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected the folder of a data set of tools.make_planes") from None
    except ValueError:
        raise ValueError(f"{path}: is not JSON; {again}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no JSON object; {again}")
    return content
