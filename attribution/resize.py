"""Resizing between the feature grid and the pixels, by one kernel for the maps of all methods, and padding.

An image lies in the upper left corner of its padded batch. A cell belongs to it if its first pixel does, as in the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(maps: Tensor, size: tuple[int, int], padding_mask: Tensor | None = None) -> Tensor:
    """Enlarge maps to the pixels, bilinearly (`align_corners=False`).

    Args:
        maps: `[B, h, w]`.
        size: height and width of the result.
        padding_mask: bool `[B, *size]`, True on padding. The cells at the border of the image then repeat outwards, so that
            nothing leaks in from the padding, and the result is 0 there.

    Returns:
        `[B, *size]` in at least float32.

    Raises:
        ValueError: a map is not finite, or the shapes do not fit.
    """
    check(maps, size, padding_mask)
    maps = maps if maps.dtype == torch.float64 else maps.float()
    if maps.shape[-2:] == torch.Size(size):
        return maps if padding_mask is None else maps.masked_fill(padding_mask, 0)
    if padding_mask is not None:
        maps = repeat_border(maps, grid_padding(padding_mask, (maps.shape[1], maps.shape[2])))
    enlarged = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return enlarged if padding_mask is None else enlarged.masked_fill(padding_mask, 0)


def pool_to(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average maps, or masks, `[B, H, W]` over the cells of a grid: `[B, *grid]` in at least float32."""
    return F.adaptive_avg_pool2d((maps if maps.dtype == torch.float64 else maps.float())[:, None], grid)[:, 0]


def grid_padding(padding_mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the cells of a grid that lie on padding, by the model's rule: bool `[B, H, W]` to `[B, *grid]`."""
    return F.interpolate(padding_mask[:, None].float(), size=grid)[:, 0].bool()


def check(maps: Tensor, size: tuple[int, int], padding_mask: Tensor | None = None) -> None:
    """Raise a ValueError unless maps are finite `[B, h, w]` and the padding is `[B, *size]`."""
    if maps.dim() != 3:
        raise ValueError(f"maps must be [B, h, w], not {list(maps.shape)}")
    if padding_mask is not None and padding_mask.shape != (len(maps), *size):
        raise ValueError(f"the padding mask must be {[len(maps), *size]}, not {list(padding_mask.shape)}")
    if not torch.isfinite(maps).all():
        raise ValueError("a map holds NaN or infinity: check the model's outputs and the method that made it")


def repeat_border(maps: Tensor, padding: Tensor) -> Tensor:
    """Replace padding by the last row and column of each image."""
    height, width = maps.shape[1:]
    rows = (~padding).any(2).sum(1).clamp(min=1)  # [B]
    columns = (~padding).any(1).sum(1).clamp(min=1)
    row = torch.minimum(torch.arange(height, device=maps.device), rows[:, None] - 1)  # [B, h]
    column = torch.minimum(torch.arange(width, device=maps.device), columns[:, None] - 1)
    image = torch.arange(len(maps), device=maps.device)
    return maps[image[:, None, None], row[:, :, None], column[:, None, :]]


def image_extent(valid: Tensor) -> tuple[int, int]:
    """Return the height and width of the image in the upper left corner of `valid`, bool `[H, W]`."""
    return int(valid.any(1).sum()), int(valid.any(0).sum())


def crop_padding(images: Tensor, padding_mask: Tensor | None) -> Iterator[tuple[tuple[int, slice, slice], Tensor]]:
    """Iterate over the images of a batch without their padding.

    Args:
        images: `[B, 3, H, W]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.

    Yields:
        The region of an image in maps `[B, H, W]`, and a copy of the image, `[1, 3, H', W']`.
    """
    for index in range(len(images)):
        height, width = images.shape[2:] if padding_mask is None else image_extent(~padding_mask[index])
        yield (index, slice(height), slice(width)), images[index : index + 1, :, :height, :width].clone()
