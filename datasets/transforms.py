"""Transforms of uint8 tensors: INTR's recipe (any aspect ratio), the square one, and augmentation of the fine-grained recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import ColorJitter, InterpolationMode, RandAugment
from torchvision.transforms.v2 import functional as F

from datasets.image_folder import Size, Transform
from datasets.size_schedule import MAX_SIDE, MIN_SIDE, REFERENCE_SIZE, scaled

LONGEST, ZOOMS, CROPS = 1333, (400, 500, 600), (384, 600)  # INTR's numbers (DETR's recipe), for REFERENCE_SIZE
ASPECT_RATIOS = [3 / 4, 4 / 3]
NUM_OPERATIONS, MAX_MAGNITUDE = 2, 10  # RandAugment's scale, as in the paper: 10 turns by up to 30 degrees and shears by 0.3
GREY = [124, 116, 104]  # fill colour: the mean of ImageNet, near 0 once normalised
AREA, RATIO = (0.02, 1 / 3), (0.3, 3.3)


def train_transform(
    image_size: int = REFERENCE_SIZE,
    square: bool = False,
    crop_min: float = 0.08,
    hflip: float = 0.5,
    color_jitter: float = 0.0,
    randaugment: int = 0,
    random_erasing: float = 0.0,
) -> Transform:
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
    augment = Augment(color_jitter, randaugment, random_erasing)
    if square:
        return partial(_square_train, image_size=image_size, crop_min=crop_min, hflip=hflip, augment=augment)
    return partial(_aspect_train, image_size=image_size, hflip=hflip, augment=augment)


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


def _aspect_train(image: Tensor, size: Size = None, *, image_size: int, hflip: float, augment: Augment) -> Tensor:
    """Apply INTR's augmentation: flip, with probability 1/2 zoom and crop, resize to the batch's scale, then `augment`."""
    size, image_size = _sizes(size, image_size)
    image = _random_flip(image, hflip)
    if torch.rand(()) < 0.5:
        zoom = ZOOMS[int(torch.randint(len(ZOOMS), ()))]
        # INTR bounds no long side here: a strip of 1 x 10000 pixels would take gigabytes.
        image = _resize_short_side(image, scaled(zoom, image_size), longest=10 * image_size)
        image = _random_crop(image, *(scaled(side, image_size) for side in CROPS))
    return augment(_resize_short_side(image, size, scaled(LONGEST, image_size)))


def _square_train(
    image: Tensor, size: Size = None, *, image_size: int, crop_min: float, hflip: float, augment: Augment
) -> Tensor:
    """Apply a random resized crop to a square (Szegedy et al. 2015), a flip, then `augment`."""
    size, _ = _sizes(size, image_size)
    box = RandomResizedCrop.get_params(image, [crop_min, 1.0], ASPECT_RATIOS)
    return augment(_random_flip(_resize(F.crop(image, *box), size, size), hflip))


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


def _resize_short_side(image: Tensor, short: int, longest: int) -> Tensor:
    return _resize(image, *short_side_size(image.shape[1], image.shape[2], short, longest))


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    # A crop is not contiguous: torch would resize it plane by plane and return planar memory.
    image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return F.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)


def _random_flip(image: Tensor, probability: float) -> Tensor:
    return F.horizontal_flip(image) if torch.rand(()) < probability else image


def _random_crop(image: Tensor, smallest: int, largest: int) -> Tensor:
    """Crop a box whose sides are drawn independently from `smallest` to `largest`, at most the picture's."""
    height, width = image.shape[-2:]
    crop_height, crop_width = (int(torch.randint(min(smallest, side), min(largest, side) + 1, ())) for side in (height, width))
    top = int(torch.randint(height - crop_height + 1, ()))
    left = int(torch.randint(width - crop_width + 1, ()))
    return image[:, top : top + crop_height, left : left + crop_width]


def _check_size(image_size: int) -> None:
    if not MIN_SIDE <= image_size <= MAX_SIDE:
        raise ValueError(f"--image_size {image_size} must be from {MIN_SIDE} to {MAX_SIDE} pixels")


class Augment:
    """Random augmentation of a picture that was cropped, flipped and resized; draws from torch's generator only. 0: off.

    Args:
        color_jitter: strength s: brightness, contrast and saturation by a factor from 1 - s to 1 + s, hue by up to s / 4
            of the colour circle, in random order; these proportions are those of SimCLR (Chen et al. 2020, appendix A).
        randaugment: magnitude M, 1 to 10, of two random operations (RandAugment, Cubuk et al. 2020), on the paper's scale
            and timm's; torchvision's own goes to 30, so that its 9 is a 3 here.
        random_erasing: probability that a rectangle of 2 to 33 % of the area becomes noise (Zhong et al. 2020, RE-R).

    Raises:
        ValueError: `color_jitter` or `random_erasing` outside [0, 1], `randaugment` no integer from 0 to 10.
    """

    def __init__(self, color_jitter: float = 0.0, randaugment: int = 0, random_erasing: float = 0.0) -> None:
        if not 0 <= color_jitter <= 1:
            raise ValueError(f"--color_jitter {color_jitter} must be from 0 to 1 (a strength; 0 is off)")
        if randaugment not in range(MAX_MAGNITUDE + 1):
            raise ValueError(f"--randaugment {randaugment} must be an integer from 0 to {MAX_MAGNITUDE} (a magnitude; 0 is off)")
        if not 0 <= random_erasing <= 1:
            raise ValueError(f"--random_erasing {random_erasing} must be from 0 to 1 (a probability)")
        self.random_erasing = random_erasing
        self.colours = ColorJitter(*[color_jitter] * 3, hue=color_jitter / 4) if color_jitter else None
        self.operations = None
        if randaugment:
            self.operations = RandAugment(
                NUM_OPERATIONS, randaugment, MAX_MAGNITUDE + 1, interpolation=InterpolationMode.BILINEAR, fill=GREY
            )

    def __call__(self, image: Tensor) -> Tensor:
        """Augment an image uint8 `[3, H, W]` -> uint8 `[3, H, W]`; returns the image itself where everything is off."""
        if self.colours is not None:
            image = self.colours(image)
        if self.operations is not None:
            image = self.operations(image)
        return _erase(image) if self.random_erasing and torch.rand(()) < self.random_erasing else image


def _erase(image: Tensor) -> Tensor:
    top, left, height, width, value = RandomErasing.get_params(image, AREA, RATIO, [0.0])
    if value is image:  # too small for a rectangle
        return image
    noise = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return F.erase(image, top, left, height, width, noise)
