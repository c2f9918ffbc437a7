"""Object masks: reading and resizing a mask, the masks of a split, and pictures that hold an object of each of two classes.

The mask of a picture is `<folder>/<split>/<class>/<stem>.png`, bright on the object. A file pairs.json of pictures with two
objects is `[{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]`, and the masks of the objects lie beside the picture:
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
from util.classes import match_classes
from util.printable import short_name

FORM = 'expected [{"file": "street.jpg", "A": "bus", "B": "tram"}, ...]'
SHOWN = 5  # class names listed in an error


def read_mask(path: Path, *, allow_uniform: bool = False) -> Tensor:
    """Read a mask file as bool `[H, W]`: True above the middle of its range.

    Raises:
        ValueError: the mask is transparent in places, cannot be read, or (without `allow_uniform`) is empty or covers all of
            the picture.
    """
    image_size(path)  # raises if the file is not an image
    with Image.open(path) as image:
        if "A" in image.getbands() or "transparency" in image.info:
            raise ValueError(f"{path}: has transparent pixels; save the mask as grey: 0 outside the object, 255 on it")
        # Labels, of 16 bits, too, and 1-bit masks keep their values: 0 and 1 do as well as 0 and 255.
        labels = image.mode in ("1", "L", "P") or image.mode.startswith("I")
        grey = np.asarray(image) if labels else decode_image(path).amax(0).numpy()  # [H, W]
    mask = torch.from_numpy(grey > grey.max() / 2)
    if allow_uniform and grey.max() == grey.min():  # one value: an object that fills the picture, or none
        return torch.full(grey.shape, bool(grey.max()))
    if not mask.any() or mask.all():
        what = "marks all of the picture" if grey.max() else "is empty"
        raise ValueError(f"{path}: the mask {what}; expected 0 outside the object, 255 on it")
    return mask


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a mask `[H, W]` that is not empty: bool `size`.

    The eval transforms resize a picture as a whole, and so is its mask: a pixel belongs to the object that covers half of it
    or more (of an object so thin that it covers no pixel by half: those that it covers most).
    """
    height, width = mask.shape
    if size[0] > height or size[1] > width:  # nearest neighbour; shrinking the other side after that is exact
        rows, columns = (
            ((torch.arange(new) + 0.5) * old / new).long() if new > old else torch.arange(old)
            for new, old in ((size[0], height), (size[1], width))
        )
        mask = mask[rows][:, columns]
    cover = F.adaptive_avg_pool2d(mask[None].float(), size)[0]
    return cover >= min(0.5, float(cover.max()))


def mask_path(folder: Path, split_root: Path, picture: Path) -> Path:
    """Return the path of the mask that a picture of the split `split_root` may have."""
    return folder / split_root.name / picture.relative_to(split_root).with_suffix(".png")


def check_masks(folder: Path, split_root: Path, pictures: Sequence[Path]) -> int:
    """Return how many pictures have a mask.

    Raises:
        ValueError: none has one, a mask has another (upright) size than its picture, or is that of two pictures.
    """
    owners: dict[Path, Path] = {}
    for picture in pictures:
        mask = mask_path(folder, split_root, picture)
        if mask.is_file():
            if (other := owners.setdefault(mask, picture)) != picture:
                raise ValueError(f"--masks: {mask} would be that of {other} and of {picture.name}: rename one of them")
            if image_size(mask) != image_size(picture):
                sizes = [" x ".join(map(str, image_size(path)[::-1])) for path in (mask, picture)]
                raise ValueError(f"--masks: {mask} is {sizes[0]}, its picture {sizes[1]}: they must have one size")
    if not owners:
        example = mask_path(folder, split_root, pictures[0])
        raise ValueError(f"--masks {folder}: no picture has a mask there; expected {example} for {pictures[0]}")
    return len(owners)


def object_masks(folder: Path, split_root: Path, pictures: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Return the masks of pictures at the network's input size, bool `[N, *size]`, empty without one; raises as `read_mask`."""
    masks = torch.zeros(len(pictures), *size, dtype=torch.bool)
    for index, picture in enumerate(pictures):
        path = mask_path(folder, split_root, picture)
        if path.is_file() and (mask := read_mask(path, allow_uniform=True)).any():
            masks[index] = resize_mask(mask, size)
    return masks


class PairPicture(NamedTuple):
    """An entry of pairs.json: the picture, the masks of A and B, and the indices of their classes."""

    path: Path
    masks: tuple[Path, Path]
    classes: tuple[int, int]


def read_pairs(path: Path, classes: Sequence[str]) -> list[PairPicture]:
    """Read pairs.json (or that of a folder) for a model with `classes`, and check that the files it names exist and fit.

    Raises:
        ValueError: (one line that names the file) the list or an entry is not of the form above, a picture or mask is
            missing or damaged, a class is not the model's, both are the same, or a mask is empty, full, or has another size
            than its picture.
    """
    path = path / "pairs.json" if path.is_dir() else path
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--pairs {path}: {error.strerror}; {FORM}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--pairs {path}: is not JSON ({error}); {FORM}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"--pairs {path}: {'an empty list' if entries == [] else 'not a list'}; {FORM}")
    pairs = [_read_entry(path, number, entry, classes) for number, entry in enumerate(entries, start=1)]
    owners: dict[tuple[Path, Path], PairPicture] = {}
    for pair in pairs:
        if owners.setdefault(pair.masks, pair) != pair:
            raise ValueError(
                f"--pairs {path}: {pair.masks[0].name} is the mask of two entries: give each a picture of its own name"
            )
    return pairs


def _read_entry(path: Path, number: int, entry: object, classes: Sequence[str]) -> PairPicture:
    where = f"--pairs {path}: entry {number}"
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) and entry[key] for key in ("file", "A", "B")):
        raise ValueError(f"{where} lacks the text 'file', 'A' or 'B'; {FORM}")
    if "\0" in entry["file"] or not Path(entry["file"]).name:
        raise ValueError(f"{where}: file is '{short_name(entry['file'])}', which names no picture; {FORM}")
    chosen = match_classes([entry["A"], entry["B"]], classes)
    for side, label in zip("AB", chosen, strict=True):
        if label is None:
            close = difflib.get_close_matches(entry[side], classes, SHOWN) or list(classes)[:SHOWN]
            shown = ", ".join(map(repr, close)) + (", ..." if len(close) < len(classes) else "")
            name = short_name(entry[side])
            raise ValueError(f"{where}: {side} is '{name}', not one of the model's {len(classes)} classes: {shown}")
    if chosen[0] == chosen[1]:
        raise ValueError(f"{where}: A and B are both '{short_name(entry['A'])}'; a pair has two classes")
    picture = path.parent / entry["file"]
    masks = picture.with_suffix(".A.png"), picture.with_suffix(".B.png")
    size = image_size(picture)
    for mask in masks:
        if not mask.is_file():
            raise ValueError(f"{mask}: is missing; expected the mask of an object in {picture.name}, bright on the object")
        if image_size(mask) != size:
            height, width = image_size(mask)
            raise ValueError(f"{mask}: is {width} x {height}, its picture is {size[1]} x {size[0]}; they must have one size")
        read_mask(mask)
    return PairPicture(picture, masks, (chosen[0], chosen[1]))  # type: ignore[arg-type]


def load_masks(pair: PairPicture, size: tuple[int, int]) -> Tensor:
    """Return the masks of A and B at the network's input size, bool `[2, *size]`; raises as `read_mask`."""
    return torch.stack([resize_mask(read_mask(path), size) for path in pair.masks])
