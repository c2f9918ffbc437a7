"""Cutting pictures, and their masks alike: off a banner, out the square around a box. Before EXIF turns them, as boxes are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from datasets.prepare.writing import png
from util.errors import ImageError

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels; right and bottom excluded
Area = tuple[int, int, int, int]  # a box within a picture, in whole pixels
MARGIN = 1.2  # side of a square over the longer side of its box


def around(boxes: Iterable[Box]) -> Box | None:
    """Return the smallest box around several; None if there are none."""
    edges = list(zip(*boxes, strict=True))
    return (min(edges[0]), min(edges[1]), max(edges[2]), max(edges[3])) if edges else None


def lies_in(path: Path, box: Box, banner: int) -> bool:
    """Return whether a box covers a pixel or more, each way, of the picture above its banner; raises as `square_around`."""
    width, height = _size(path, banner)
    left, top, right, bottom = box
    return min(right, width) - max(left, 0) >= 1 and min(bottom, height) - max(top, 0) >= 1


def square_around(path: Path, box: Box, banner: int) -> Area:
    """Return the square around a box, moved into the picture above its banner; no square where that is too small for it.

    Raises:
        ImageError: the picture cannot be read, or has no more rows than its banner.
    """
    width, height = _size(path, banner)
    left, top, right, bottom = box
    side = max(1, round(MARGIN * max(right - left, bottom - top)))
    starts, ends = [], []
    for middle, length in (((left + right) / 2, width), ((top + bottom) / 2, height)):
        start = max(0, min(round(middle - side / 2), length - side))
        starts.append(start)
        ends.append(min(length, start + side))
    return starts[0], starts[1], ends[0], ends[1]


def _size(path: Path, banner: int) -> tuple[int, int]:
    """Return width and height of a picture above its banner."""
    from datasets.decode import open_image  # with torch, which the command line does not wait for

    with open_image(path) as image:
        if image.height <= banner:
            raise ImageError(f"{path}: has {image.height} rows, and no picture above its banner of {banner}; get it again")
        return image.width, image.height - banner


def cut_picture(path: Path, banner: int, area: Area | None) -> bytes:
    """Cut an area out of a picture; None: all above the banner.

    A JPEG keeps its quantisation, and its grid of blocks if the area starts at the corner, and so loses next to nothing.

    Raises:
        ImageError: the picture cannot be read, or has no more rows than its banner.
    """
    from datasets.decode import open_image

    area = area or (0, 0, *_size(path, banner))
    buffer = BytesIO()
    with open_image(path) as image:
        image.load()
        cut = image.crop(area)
        kept = {key: image.info[key] for key in ("exif", "icc_profile") if key in image.info}
        if isinstance(image, JpegImageFile):
            cut.save(buffer, "JPEG", qtables=image.quantization, subsampling=get_sampling(image), **kept)
        else:
            cut.save(buffer, "PNG", **kept)
    return buffer.getvalue()


def mask_png(path: Path, read: Callable[[], np.ndarray] | None, box: Box | None, banner: int, area: Area | None) -> bytes | None:
    """Return the mask of a picture's object as PNG, 0 and 255, cut and turned as the picture is; None where their sizes differ.

    Args:
        path: the picture.
        read: reads the mask, bool `[H, W]`; None: that of `box`.
        box: the object's box.
        banner, area: as of `cut_picture`.

    Raises:
        ImageError: the picture or mask cannot be read.
    """
    from datasets.decode import ORIENTATION_TAG, open_image, orientation

    left, top, right, bottom = area or (0, 0, *_size(path, banner))
    with open_image(path) as image:
        size, turn = (image.height, image.width), orientation(image)
    mask = read() if read else box_mask(size, box)
    if mask.shape != size:
        return None
    stored = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    stored.getexif()[ORIENTATION_TAG] = turn
    return png(np.asarray(ImageOps.exif_transpose(stored)))


def box_mask(size: tuple[int, int], box: Box | None) -> np.ndarray:
    """Return the mask bool `[H, W]` of the pixels that a box covers by half or more."""
    mask = np.zeros(size, dtype=bool)
    if box is not None:
        left, top, right, bottom = (max(0, round(edge)) for edge in box)
        mask[top:bottom, left:right] = True
    return mask
