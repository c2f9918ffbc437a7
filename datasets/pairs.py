"""Reading pictures that hold an object of each of two classes, with the mask of each object.

pairs.json is `[{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]`. The masks of the objects lie beside the picture:
`street.A.png` and `street.B.png`, of the picture's (upright) size, dark outside the object and bright on it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.decode import image_size
from datasets.masks import read_mask, resize_mask

FORM = 'expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]'
SHOWN = 5  # class names listed in an error


class PairPicture(NamedTuple):
    """An entry of pairs.json: the picture, the masks of A and B, and the indices of their classes."""

    path: Path
    masks: tuple[Path, Path]
    classes: tuple[int, int]


def read_pairs(path: Path, classes: Sequence[str]) -> list[PairPicture]:
    """Read pairs.json (or that of a folder), and check that the files it names exist and fit.

    Args:
        classes: names in the order of the model's logits.

    Raises:
        ValueError: (one line that names the file) the list or an entry is not of the form above, a picture or mask is
            missing or damaged, a class is not the model's, both are the same, or a mask has another size than its picture.
    """
    path = path / "pairs.json" if path.is_dir() else path
    try:
        entries = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"--pairs {path}: {error.strerror}; {FORM}") from None
    except ValueError as error:
        raise ValueError(f"--pairs {path}: is not JSON ({error}); {FORM}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"--pairs {path}: {'an empty list' if entries == [] else 'not a list'}; {FORM}")
    return [_read_entry(path, number, entry, classes) for number, entry in enumerate(entries, start=1)]


def _read_entry(path: Path, number: int, entry: object, classes: Sequence[str]) -> PairPicture:
    where = f"--pairs {path}: entry {number}"
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) and entry[key] for key in ("file", "A", "B")):
        raise ValueError(f"{where} lacks the text 'file', 'A' or 'B'; {FORM}")
    for side in ("A", "B"):
        if entry[side] not in classes:
            close = difflib.get_close_matches(entry[side], classes, SHOWN) or list(classes)[:SHOWN]
            shown = ", ".join(map(repr, close)) + (", ..." if len(close) < len(classes) else "")
            raise ValueError(f"{where}: {side} is '{entry[side]}', not one of the model's {len(classes)} classes: {shown}")
    if entry["A"] == entry["B"]:
        raise ValueError(f"{where}: A and B are both '{entry['A']}'; a pair has two classes")
    picture = path.parent / entry["file"]
    masks = picture.with_suffix(".A.png"), picture.with_suffix(".B.png")
    size = image_size(picture)
    for mask in masks:
        if not mask.is_file():
            raise ValueError(f"{mask}: is missing; expected the mask of an object in {picture.name}, bright on the object")
        if image_size(mask) != size:
            height, width = image_size(mask)
            raise ValueError(f"{mask}: is {width} x {height}, its picture is {size[1]} x {size[0]}; they must have one size")
    return PairPicture(picture, masks, (classes.index(entry["A"]), classes.index(entry["B"])))


def load_masks(pair: PairPicture, size: tuple[int, int]) -> Tensor:
    """Return the masks of A and B at the network's input size, bool `[2, *size]`; raises as `read_mask`."""
    return torch.stack([resize_mask(read_mask(path), size) for path in pair.masks])
