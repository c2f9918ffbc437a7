"""Augmentation of the fine-grained recipe: colour jitter, RandAugment and random erasing, on uint8 tensors; off by default."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import RandomErasing
from torchvision.transforms.v2 import ColorJitter, InterpolationMode, RandAugment
from torchvision.transforms.v2 import functional as F

NUM_OPERATIONS, MAX_MAGNITUDE = 2, 10  # RandAugment's scale, as in the paper: 10 turns by up to 30 degrees and shears by 0.3
GREY = [124, 116, 104]  # fill colour: the mean of ImageNet, near 0 once normalised
AREA, RATIO = (0.02, 1 / 3), (0.3, 3.3)


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
