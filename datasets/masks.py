"""Masks of the objects in the pictures of a split: `<folder>/<split>/<class>/<stem>.png`, bright on the object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datasets.decode import image_size
from datasets.pairs import read_mask, resize_mask


def mask_path(folder: Path, split_root: Path, picture: Path) -> Path:
    """Where the mask of a picture of the split `split_root` lies, if there is one."""
    return folder / split_root.name / picture.relative_to(split_root).with_suffix(".png")


def check_masks(folder: Path, split_root: Path, pictures: Sequence[Path]) -> int:
    """How many of the pictures have a mask.

    Raises:
        ValueError: none has, or one has another (upright) size than its picture.
    """
    there = 0
    for picture in pictures:
        mask = mask_path(folder, split_root, picture)
        if mask.is_file():
            there += 1
            if image_size(mask) != image_size(picture):
                sizes = [" x ".join(map(str, image_size(path)[::-1])) for path in (mask, picture)]
                raise ValueError(f"--masks: {mask} is {sizes[0]}, its picture {sizes[1]}: they must have one size")
    if not there:
        example = mask_path(folder, split_root, pictures[0])
        raise ValueError(f"--masks {folder}: no picture has a mask there; expected {example} for {pictures[0]}")
    return there


def object_masks(folder: Path, split_root: Path, pictures: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """The masks of pictures at the size that the network sees: bool `[N, *size]`, empty where there is none.

    Raises:
        ValueError: a mask is transparent in places, or cannot be read.
    """
    masks = torch.zeros(len(pictures), *size, dtype=torch.bool)
    for index, picture in enumerate(pictures):
        path = mask_path(folder, split_root, picture)
        if path.is_file() and (mask := read_mask(path, any_size=True)).any():
            masks[index] = resize_mask(mask, size)
    return masks
