"""Object masks: reading a mask file, resizing it to the network's input, and the masks of a split.

The mask of a picture is `<folder>/<split>/<class>/<stem>.png`, bright on the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.decode import decode_image, image_size


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
        # Labels and 1-bit masks keep their values: 0 and 1 do as well as 0 and 255.
        grey = np.asarray(image) if image.mode in ("1", "L", "P") else decode_image(path).amax(0).numpy()  # [H, W]
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
    """Return how many of the pictures have a mask.

    Raises:
        ValueError: none has a mask, or a mask has another (upright) size than its picture.
    """
    count = 0
    for picture in pictures:
        mask = mask_path(folder, split_root, picture)
        if mask.is_file():
            count += 1
            if image_size(mask) != image_size(picture):
                sizes = [" x ".join(map(str, image_size(path)[::-1])) for path in (mask, picture)]
                raise ValueError(f"--masks: {mask} is {sizes[0]}, its picture {sizes[1]}: they must have one size")
    if not count:
        example = mask_path(folder, split_root, pictures[0])
        raise ValueError(f"--masks {folder}: no picture has a mask there; expected {example} for {pictures[0]}")
    return count


def object_masks(folder: Path, split_root: Path, pictures: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Return the masks of pictures at the network's input size, bool `[N, *size]`, empty without one; raises as `read_mask`."""
    masks = torch.zeros(len(pictures), *size, dtype=torch.bool)
    for index, picture in enumerate(pictures):
        path = mask_path(folder, split_root, picture)
        if path.is_file() and (mask := read_mask(path, allow_uniform=True)).any():
            masks[index] = resize_mask(mask, size)
    return masks
