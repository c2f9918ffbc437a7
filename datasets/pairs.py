"""Pictures with an object of each of two classes: does the map of a class lie on its own object, or on the other?

pairs.json is `[{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]`. The masks of the objects lie beside the picture:
`street.A.png` and `street.B.png`, of the picture's (upright) size, dark outside the object and bright on it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.decode import decode_image, image_size

SIDES = ("A", "B")
SHOWN = 5  # class names listed in an error


class PairPicture(NamedTuple):
    """One entry: the picture, the masks of A and B, and the indices of their classes."""

    path: Path
    masks: tuple[Path, Path]
    classes: tuple[int, int]


def read_pairs(path: Path, classes: Sequence[str]) -> list[PairPicture]:
    """Read pairs.json, and make sure that all that it names is there and fits.

    Args:
        path: the file, or the folder of a file of that name.
        classes: names in the order of the model's logits.

    Raises:
        ValueError: (one line that names the file) the list or an entry is not of the form above, a picture or mask is
            missing or damaged, a class is not the model's, both are the same, or a mask has another size than its picture.
    """
    path = path / "pairs.json" if path.is_dir() else path
    form = 'expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]'
    try:
        entries = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"--pairs {path}: {error.strerror}; {form}") from None
    except ValueError as error:
        raise ValueError(f"--pairs {path}: is not JSON ({error}); {form}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"--pairs {path}: {'an empty list' if entries == [] else 'not a list'}; {form}")
    return [_check(path, number, entry, classes, form) for number, entry in enumerate(entries, start=1)]


def _check(path: Path, number: int, entry: object, classes: Sequence[str], form: str) -> PairPicture:
    where = f"--pairs {path}: entry {number}"
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) and entry[key] for key in ("file", *SIDES)):
        raise ValueError(f"{where} lacks the text 'file', 'A' or 'B'; {form}")
    for side in SIDES:
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
    """The masks of A and B at the size that the network sees: bool `[2, *size]`.

    The eval transforms resize a picture as a whole, and so are these: a pixel belongs to the object that covers half of it
    or more (of an object so thin that it covers no pixel by half: those that it covers most).

    Raises:
        ValueError: a mask is empty, covers all of the picture, is transparent in places, or cannot be read.
    """
    return torch.stack([resize_mask(read_mask(path), size) for path in pair.masks])


def read_mask(path: Path, *, any_size: bool = False) -> Tensor:
    """A mask file as bool `[H, W]`: True above the middle of its range; `any_size`: also none, or all of the picture.

    Raises:
        ValueError: as `load_masks`.
    """
    image_size(path)  # what is wrong with the file itself, in one line
    with Image.open(path) as image:
        if "A" in image.getbands() or "transparency" in image.info:
            raise ValueError(f"{path}: has transparent pixels; save the mask as grey: 0 outside the object, 255 on it")
        # Labels and 1-bit masks keep their numbers: 0 and 1 are as good as 0 and 255.
        indexed = image.mode in ("1", "L", "P")
        grey = np.asarray(image) if indexed else decode_image(path).amax(0).numpy()  # [H, W]
    mask = torch.from_numpy(grey > grey.max() / 2)
    if any_size and grey.max() == grey.min():  # one value: an object that fills the picture, or none
        return torch.full(grey.shape, bool(grey.max()))
    if not mask.any() or mask.all():
        what = "marks all of the picture" if grey.max() else "is empty"
        raise ValueError(f"{path}: the mask {what}; expected 0 outside the object, 255 on it")
    return mask


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask `[H, W]` that is not empty, as `load_masks` resizes it: bool `size`."""
    height, width = mask.shape
    if size[0] > height or size[1] > width:  # the nearest pixel's; shrinking the other side after that is exact
        rows, columns = (
            ((torch.arange(new) + 0.5) * old / new).long() if new > old else torch.arange(old)
            for new, old in ((size[0], height), (size[1], width))
        )
        mask = mask[rows][:, columns]
    cover = F.adaptive_avg_pool2d(mask[None].float(), size)[0]
    return cover >= min(0.5, float(cover.max()))
