"""Random changes of colour, of form (RandAugment) and erased boxes: drawn from the size of a picture alone, and applied to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms.v2 import InterpolationMode, RandAugment
from torchvision.transforms.v2 import functional as F

NUM_OPERATIONS, MAX_MAGNITUDE = 2, 10  # RandAugment's scale, as in the paper: 10 turns by up to 30 degrees and shears by 0.3
GREY = [124, 116, 104]  # fill colour: the mean of ImageNet, near 0 once normalised
AREA, RATIO = (0.02, 1 / 3), (0.3, 3.3)
JITTER = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}  # in the order of ColorJitter


class Erased(NamedTuple):
    """The noise uint8 `[3, h, w]` of an erased box, and the box's upper left corner."""

    top: int
    left: int
    noise: Tensor


class Changes(NamedTuple):
    """What `Augment` draws for a picture.

    operations: names and values, in order: of `JITTER` with a factor (of hue a shift), and of RandAugment with a magnitude.
    erased: the box that becomes noise; None: there is none.
    """

    operations: tuple[tuple[str, float], ...] = ()
    erased: Erased | None = None


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
        self.colours = v1.ColorJitter(*[color_jitter] * 3, hue=color_jitter / 4) if color_jitter else None
        self.operations = DrawnOperations(randaugment) if randaugment else None

    def draw(self, height: int, width: int) -> Changes:
        """Draw the changes of a picture of this size."""
        operations: list[tuple[str, float]] = []
        if self.colours is not None:
            ranges = (getattr(self.colours, name) for name in JITTER)
            order, *factors = v1.ColorJitter.get_params(*ranges)
            drawn = [*zip(JITTER, factors, strict=True)]
            operations += [drawn[index] for index in order.tolist() if drawn[index][1] is not None]
        if self.operations is not None:
            operations += self.operations.draw(height, width)
        erases = self.random_erasing and torch.rand(()) < self.random_erasing
        return Changes(tuple(operations), _draw_box(height, width) if erases else None)

    def apply(self, image: Tensor, changes: Changes) -> Tensor:
        """Change an image uint8 `[3, H, W]` -> uint8 `[3, H, W]`; returns the image itself where nothing is changed."""
        for name, value in changes.operations:
            if name in JITTER:
                image = JITTER[name](image, value)
            else:
                assert self.operations is not None
                image = self.operations.apply(image, name, value)
        if changes.erased is None:
            return image
        top, left, noise = changes.erased
        return F.erase(image, top, left, *noise.shape[1:], noise)

    def __call__(self, image: Tensor) -> Tensor:
        """Augment an image uint8 `[3, H, W]` -> uint8 `[3, H, W]`; returns the image itself where everything is off."""
        return self.apply(image, self.draw(*image.shape[1:]))


class DrawnOperations(RandAugment):
    """RandAugment in two parts: drawing the operations, and applying one."""

    def __init__(self, magnitude: int) -> None:
        super().__init__(NUM_OPERATIONS, magnitude, MAX_MAGNITUDE + 1, interpolation=InterpolationMode.BILINEAR, fill=GREY)
        self.drawn: list[tuple[str, float]] = []

    def draw(self, height: int, width: int) -> list[tuple[str, float]]:
        """Draw the names and the magnitudes of the operations for a picture of this size."""
        self.drawn = []
        self(blank(height, width))
        return self.drawn

    def apply(self, image: Tensor, name: str, magnitude: float) -> Tensor:
        """Apply one operation to an image uint8 `[3, H, W]`."""
        return super()._apply_image_or_video_transform(image, name, magnitude, self.interpolation, self._fill)

    def _apply_image_or_video_transform(
        self, image: Any, transform_id: str, magnitude: float, interpolation: Any, fill: Any
    ) -> Any:
        self.drawn.append((transform_id, magnitude))  # RandAugment.forward draws, and calls this
        return image


def blank(height: int, width: int) -> Tensor:
    """Return an image of one byte that stands for a picture of this size where only the size counts: uint8 `[3, H, W]`."""
    return torch.zeros(1, dtype=torch.uint8).expand(3, height, width)


def _draw_box(height: int, width: int) -> Erased | None:
    image = blank(height, width)
    top, left, box_height, box_width, value = v1.RandomErasing.get_params(image, AREA, RATIO, [0.0])
    if value is image:  # too small for a rectangle
        return None
    return Erased(top, left, torch.randint(0, 256, (3, box_height, box_width), dtype=torch.uint8))
