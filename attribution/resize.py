"""Resizing between the feature grid and the pixels, by one kernel for the maps of all methods, and padding.

An image lies in the upper left corner of its padded batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps `[B, h, w]` to the pixels, bilinearly (`align_corners=False`): `[B, *size]` in at least float32.

    Raises:
        ValueError: a map is not finite, or the shape does not fit.
    """
    check(maps)
    maps = maps if maps.dtype == torch.float64 else maps.float()
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def pool_to(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average maps, or masks, `[B, H, W]` over the cells of a grid: `[B, *grid]` in at least float32."""
    return F.adaptive_avg_pool2d((maps if maps.dtype == torch.float64 else maps.float())[:, None], grid)[:, 0]


def check(maps: Tensor) -> None:
    """Raise a ValueError unless maps are finite `[B, h, w]`."""
    if maps.dim() != 3:
        raise ValueError(f"maps must be [B, h, w], not {list(maps.shape)}")
    if not torch.isfinite(maps).all():
        raise ValueError("a map holds NaN or infinity: check the model's outputs and the method that made it")


def image_extent(valid: Tensor) -> tuple[int, int]:
    """Return the height and width of the image in the upper left corner of `valid`, bool `[H, W]`."""
    return int(valid.any(1).sum()), int(valid.any(0).sum())


def crop_padding(images: Tensor, padding_mask: Tensor | None) -> Iterator[tuple[tuple[int, slice, slice], Tensor]]:
    """Iterate over the images of a batch without their padding, bool `[B, H, W]` (None: nothing is padded).

    Yields:
        The region of an image in maps `[B, H, W]`, and a copy of the image, `[1, 3, H', W']`.
    """
    for index in range(len(images)):
        height, width = images.shape[2:] if padding_mask is None else image_extent(~padding_mask[index])
        yield (index, slice(height), slice(width)), images[index : index + 1, :, :height, :width].clone()
