"""The changes of `datasets.augment` on batches on their device: each operation at once for all images of one size that have it.

The formulas and roundings are those of torchvision's operations on uint8, which take one value for a whole batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
import torch.nn.functional as nnF
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datasets.augment import GREY, Changes
from datasets.resampling import send


def change(images: Tensor, sizes: Sequence[tuple[int, int]], changes: Sequence[Changes]) -> None:
    """Apply the changes of each image in place.

    Args:
        images: uint8 `[B, 3, H, W]`.
        sizes: height and width of each without its padding.
        changes: of each.
    """
    for operations in zip_longest(*(each.operations for each in changes)):
        groups: dict[tuple[str, tuple[int, int]], list[tuple[int, float]]] = defaultdict(list)
        for index, (operation, size) in enumerate(zip(operations, sizes, strict=True)):
            if operation is not None and operation[0] in OPERATIONS:
                groups[operation[0], size].append((index, operation[1]))
        for (name, (height, width)), members in groups.items():
            indices, values = (send(torch.tensor(column), images.device) for column in zip(*members, strict=True))
            part = images[:, :, :height, :width]
            values = values.float().view(-1, 1, 1, 1)
            part.index_copy_(0, indices, OPERATIONS[name](part.index_select(0, indices), values))
    for image, each in zip(images, changes, strict=True):
        if each.erased is not None:
            top, left, noise = each.erased
            image[:, top : top + noise.shape[1], left : left + noise.shape[2]] = send(noise, images.device)


def _blend(images: Tensor, others: Tensor | float, factor: Tensor) -> Tensor:
    """Return `factor` of images and the rest of others, cut off as by torchvision."""
    return (images * factor + others * (1 - factor)).clamp_(0, 255).to(torch.uint8)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, 0.0, factor)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    grey = F.rgb_to_grayscale(images).float()
    return _blend(images, grey.mean((1, 2, 3), keepdim=True), factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, F.rgb_to_grayscale(images), factor)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle, in HSV: a colour is `v - v s max(0, min(k, 4 - k, 1))`, k from 0 to 6."""
    red, green, blue = images.float().unbind(1)  # each [B, H, W]
    low, high = images.aminmax(dim=1)
    value, span = high.float(), (high - low).float()
    divisor = span.clamp(min=1)
    sector = torch.where(
        high == images[:, 0],
        (green - blue) / divisor,
        torch.where(high == images[:, 1], 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    offsets = torch.arange(5, 0, -2, device=images.device)[:, None, None]  # 5, 3, 1: of red, green and blue
    k = (offsets + (sector[:, None] + 6 * shift)).remainder_(6)  # [B, 3, H, W]
    colours = value[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)
    return colours.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a blur by 1/13 [[1, 1, 1], [1, 5, 1], [1, 1, 1]], which leaves the border."""
    if min(images.shape[2:]) <= 2:
        return images
    blurred = images.float()
    inside = blurred[:, :, 1:-1, 1:-1]
    inside.copy_(nnF.avg_pool2d(blurred, 3, 1).mul_(9).add_(inside, alpha=4).div_(13).round_())
    return _blend(images, blurred, factor)


def _posterize(images: Tensor, bits: Tensor) -> Tensor:
    step = torch.exp2(8 - bits)
    return (images / step).floor_().mul_(step).to(torch.uint8)


def _solarize(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images >= 255 * threshold, 255 - images, images)


def _affine(images: Tensor, matrix: Sequence[Sequence[Tensor | float]]) -> Tensor:
    """Move images; `matrix` leads from a pixel of the result to its place before, both in pixels from the centre, x first."""
    height, width = images.shape[2:]
    count, half = len(images), (width / 2, height / 2)
    theta = images.new_empty((count, 2, 3), dtype=torch.float32)
    for i, row in enumerate(matrix):
        for j, number in enumerate(row):  # both ends of a side are -1 and 1
            scale = (half[j] if j < 2 else 1.0) / half[i]
            theta[:, i, j] = number.flatten() * scale if isinstance(number, Tensor) else number * scale
    grid = nnF.affine_grid(theta, [count, 3, height, width], align_corners=False)
    inside = torch.ones_like(images[:, :1])
    moved = nnF.grid_sample(torch.cat([images, inside], 1).float(), grid, "bilinear", "zeros", align_corners=False)
    colours, inside = moved.split([3, 1], 1)
    for channel, value in enumerate(GREY):
        colours[:, channel] -= value
    colours.mul_(inside)
    for channel, value in enumerate(GREY):
        colours[:, channel] += value
    return colours.round_().clamp_(0, 255).to(torch.uint8)


def _shear_x(images: Tensor, shear: Tensor) -> Tensor:
    # About the upper left corner, whose y is half a height above the centre.
    return _affine(images, [[1.0, shear, shear * (images.shape[2] / 2)], [0.0, 1.0, 0.0]])


def _shear_y(images: Tensor, shear: Tensor) -> Tensor:
    return _affine(images, [[1.0, 0.0, 0.0], [shear, 1.0, shear * (images.shape[3] / 2)]])


def _translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    return _affine(images, [[1.0, 0.0, -pixels.trunc()], [0.0, 1.0, 0.0]])


def _translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    return _affine(images, [[1.0, 0.0, 0.0], [0.0, 1.0, -pixels.trunc()]])


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    angle = degrees * (math.pi / 180)
    return _affine(images, [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])


# Of images uint8 [n, 3, H, W] of one size, with a value each [n, 1, 1, 1]; "Identity" is left out.
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "Brightness": lambda images, value: _brightness(images, 1 + value),
    "Contrast": lambda images, value: _contrast(images, 1 + value),
    "Color": lambda images, value: _saturation(images, 1 + value),
    "Sharpness": lambda images, value: _sharpness(images, 1 + value),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": lambda images, value: F.autocontrast(images),
    "Equalize": lambda images, value: F.equalize(images),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
}
