"""Transforms of uint8 tensors: INTR's recipe (any aspect ratio) and the square one, for training and for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datasets.augment import Augment, Changes, blank
from datasets.image_folder import Size
from datasets.size_schedule import LONGEST, MAX_SIDE, MIN_SIDE, REFERENCE_SIZE, scaled

ZOOMS, CROPS = (400, 500, 600), (384, 600)  # INTR's numbers (DETR's recipe), for REFERENCE_SIZE
ASPECT_RATIOS = [3 / 4, 4 / 3]


def train_transform(
    image_size: int = REFERENCE_SIZE,
    square: bool = False,
    crop_min: float = 0.08,
    hflip: float = 0.5,
    color_jitter: float = 0.0,
    randaugment: int = 0,
    random_erasing: float = 0.0,
) -> TrainTransform:
    """Build the random augmentation of an image; it draws from torch's generator only.

    Args:
        image_size: short side (or both sides, if `square`), in pixels, at the largest scale.
        square: random resized crop to a square; otherwise INTR's recipe.
        crop_min: smallest crop as a share of the picture's area (square only).
        hflip: probability of a horizontal flip.
        color_jitter, randaugment, random_erasing: see `Augment`.

    Returns:
        `transform(image, size)`: uint8 `[3, H, W]` -> uint8 `[3, h, w]`; `size` is the scale of the batch, or a pair of it and of
        another `image_size`; None for `image_size`.

    Raises:
        ValueError: `image_size` below 32, `crop_min` outside (0, 1], `hflip` outside [0, 1], or as `Augment`.
    """
    _check_size(image_size)
    if not 0 < crop_min <= 1:
        raise ValueError(f"--crop_min {crop_min} must be above 0 and at most 1 (a share of the picture's area)")
    if not 0 <= hflip <= 1:
        raise ValueError(f"--hflip {hflip} must be from 0 to 1 (a probability)")
    return TrainTransform(image_size, square, crop_min, hflip, Augment(color_jitter, randaugment, random_erasing))


class View(NamedTuple):
    """What a training has of a picture in an epoch.

    zoom: height and width to which the whole picture is resized before the crop; None: it is not.
    box: top, left, height and width of the crop; None: the whole picture.
    size: height and width to which the crop is resized.
    flipped: whether left and right are exchanged, after the crop if that is `square`, else before.
    changes: of colours and form, afterwards.
    """

    zoom: tuple[int, int] | None
    box: tuple[int, int, int, int] | None
    size: tuple[int, int]
    flipped: bool
    changes: Changes


@dataclass(frozen=True)
class TrainTransform:
    """The random augmentation that `train_transform` builds, with its arguments; `draw` draws all that is random in it."""

    image_size: int
    square: bool
    crop_min: float
    hflip: float
    augment: Augment

    def __call__(self, image: Tensor, size: Size = None) -> Tensor:
        view = self.draw(image.shape[1], image.shape[2], size)
        return self.augment.apply(self.cut_out(image, view), view.changes)

    def draw(self, height: int, width: int, size: Size = None) -> View:
        """Draw the view of a picture of this size."""
        scale, image_size = _sizes(size, self.image_size)
        if self.square:
            return self._draw_square(height, width, scale)
        return self._draw_aspect(height, width, scale, image_size)

    def cut_out(self, image: Tensor, view: View) -> Tensor:
        """Crop, resize and flip an image uint8 `[3, H, W]` -> uint8 `[3, h, w]`."""
        if view.flipped and not self.square:
            image = F.horizontal_flip(image)
        if view.zoom is not None:
            image = _resize(image, *view.zoom)
        if view.box is not None:
            image = F.crop(image, *view.box)
        image = _resize(image, *view.size)
        return F.horizontal_flip(image) if view.flipped and self.square else image

    def _draw_square(self, height: int, width: int, size: int) -> View:
        """Draw a random resized crop to a square (Szegedy et al. 2015), a flip, then what `augment` draws."""
        box = RandomResizedCrop.get_params(blank(height, width), [self.crop_min, 1.0], ASPECT_RATIOS)
        flipped = self._draw_flip()
        return View(None, box, (size, size), flipped, self.augment.draw(size, size))

    def _draw_aspect(self, height: int, width: int, short: int, image_size: int) -> View:
        """Draw INTR's augmentation: flip, with probability 1/2 zoom and crop, the batch's scale, then what `augment` draws."""
        flipped, zoom, box = self.draw_crop(height, width, image_size)
        height, width = (height, width) if box is None else box[2:]
        size = short_side_size(height, width, short, scaled(LONGEST, image_size))
        return View(zoom, box, size, flipped, self.augment.draw(*size))

    def draw_crop(
        self, height: int, width: int, image_size: int
    ) -> tuple[bool, tuple[int, int] | None, tuple[int, int, int, int] | None]:
        """Draw `flipped`, `zoom` and `box` of a view that keeps its aspect ratio: what is drawn first."""
        flipped = self._draw_flip()
        if torch.rand(()) >= 0.5:
            return flipped, None, None
        side = scaled(ZOOMS[int(torch.randint(len(ZOOMS), ()))], image_size)
        # INTR bounds no long side here: a strip of 1 x 10000 pixels would take gigabytes.
        zoom = short_side_size(height, width, side, longest=10 * image_size)
        return flipped, zoom, _draw_box(*zoom, *(scaled(side, image_size) for side in CROPS))

    def _draw_flip(self) -> bool:
        return bool(torch.rand(()) < self.hflip)


def eval_transform(image_size: int = REFERENCE_SIZE, square: bool = False) -> EvalTransform:
    """Build the transform that resizes the whole picture; a ValueError if `image_size` is below 32."""
    _check_size(image_size)
    return EvalTransform(image_size, square)


@dataclass(frozen=True)
class EvalTransform:
    """Resize of the whole picture: to a square, or to a short side of `image_size`, the long side at most 1333/800 of it.

    `transform(image, size=None)`: uint8 `[3, H, W]` -> uint8 `[3, h, w]`; `size` replaces `image_size`.
    """

    image_size: int
    square: bool

    def output_size(self, height: int, width: int, size: int | None = None) -> tuple[int, int]:
        """Return height and width after the transform, rounded as by INTR."""
        size = size or self.image_size
        return (size, size) if self.square else short_side_size(height, width, size, scaled(LONGEST, size))

    def __call__(self, image: Tensor, size: int | None = None) -> Tensor:
        return _resize(image, *self.output_size(image.shape[1], image.shape[2], size))


@dataclass(frozen=True)
class CentreSquare(EvalTransform):
    """Resize of the largest square in the middle of the picture to `image_size`; arguments as of `EvalTransform`."""

    square: bool = True

    def __call__(self, image: Tensor, size: int | None = None) -> Tensor:
        return super().__call__(F.center_crop(image, [min(image.shape[1:])]), size)


@dataclass(frozen=True)
class Reduction:
    """Resize of pictures that are larger than a training needs, for `train_transform` with the same arguments.

    No crop is then smaller in pixels than what it becomes. Other pictures stay as they are.
    """

    image_size: int
    square: bool
    crop_min: float

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after the resize."""
        crop = math.sqrt(self.crop_min * ASPECT_RATIOS[0] * height * width) if self.square else min(height, width)
        factor = self.image_size / crop  # `crop` is the shorter side of the smallest crop
        return (height, width) if factor >= 1 else (math.ceil(height * factor), math.ceil(width * factor))

    def __call__(self, image: Tensor) -> Tensor:
        size = self.output_size(*image.shape[1:])
        return image if size == tuple(image.shape[1:]) else _resize(image, *size)


def _sizes(size: Size, image_size: int) -> tuple[int, int]:
    """Return the scale of a batch and the image size that it is a scale of; `image_size` is that of the transform."""
    return size if isinstance(size, tuple) else (size or image_size, image_size)


def short_side_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Return height and width after a resize of the short side to `short`, with INTR's rounding.

    A long side above `longest` shrinks the short one instead. No side is below 32 pixels: a strip too narrow for that
    loses its aspect ratio.
    """
    small, large = min(height, width), max(height, width)
    if large / small * short > longest:
        short = round(longest * small / large)
    if short < MIN_SIDE:
        new_small, new_large = MIN_SIDE, max(MIN_SIDE, min(longest, int(MIN_SIDE * large / small)))
    elif small == short:
        new_small, new_large = small, large
    else:
        new_small, new_large = short, int(short * large / small)
    return (new_small, new_large) if height <= width else (new_large, new_small)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    # A crop is not contiguous: torch would resize it plane by plane and return planar memory.
    image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return F.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)


def _draw_box(height: int, width: int, smallest: int, largest: int) -> tuple[int, int, int, int]:
    """Draw a box whose sides are drawn independently from `smallest` to `largest`, at most the picture's; as `View.box`.

    Pictures whose sides differ by a pixel get boxes that do so, too: those of a cache are rounded.
    """
    limits = [(min(smallest, side), min(largest, side)) for side in (height, width)]
    crop_height, crop_width = (low + int(float(torch.rand(())) * (high - low + 1)) for low, high in limits)
    top = int(torch.randint(height - crop_height + 1, ()))
    left = int(torch.randint(width - crop_width + 1, ()))
    return top, left, crop_height, crop_width


def _check_size(image_size: int) -> None:
    if not MIN_SIDE <= image_size <= MAX_SIDE:
        raise ValueError(f"--image_size {image_size} must be from {MIN_SIDE} to {MAX_SIDE} pixels")
