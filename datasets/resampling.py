"""Crop, resize and flip of a batch of pictures on their device, with the antialiased bilinear filter of torch's resize.

A resize is linear and separable: a product with one matrix for the rows and one for the columns. Batches of them take a few large
kernels whatever the number of pictures, and the host waits for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datasets.transforms import View

PIXELS = 2**24  # that are resampled at once: 0.6 GB while it is done
HALF = ("cuda",)  # devices that multiply in float16, where bytes are exact and a product is by a fraction of a grey level


class Region(NamedTuple):
    """A part of a picture of a flat store of pixels, and what it becomes. All are integers.

    offset, stride: position of the picture's first pixel, and its width.
    top, left, height, width: of the part that is read.
    flipped: whether left and right are exchanged.
    zoom_height, zoom_width: of the part, once it is resized.
    box_top, box_left, box_height, box_width: of the crop from that.
    out_height, out_width: to which the crop is resized.
    """

    offset: int
    stride: int
    top: int
    left: int
    height: int
    width: int
    flipped: int
    zoom_height: int
    zoom_width: int
    box_top: int
    box_left: int
    box_height: int
    box_width: int
    out_height: int
    out_width: int


def region(offset: int, height: int, width: int, view: View) -> Region:
    """Return the region of a picture of this height and width that a view shows."""
    if view.zoom is None:  # a flip before a crop and the same flip after it: of a crop from the other side
        top, left, h, w = view.box or (0, 0, height, width)
        return Region(offset, width, top, left, h, w, view.flipped, h, w, 0, 0, h, w, *view.size)
    assert view.box is not None
    return Region(offset, width, 0, 0, height, width, view.flipped, *view.zoom, *view.box, *view.size)


def resample(pixels: Tensor, regions: Sequence[Region]) -> Tensor:
    """Crop, resize and flip pictures.

    Args:
        pixels: uint8 `[P, 3]`, of all pictures, row by row.
        regions: of B views.

    Returns:
        uint8 `[B, 3, H, W]` in channels_last memory, of the largest height and width; 0 at the bottom and right of smaller views.
    """
    height, width = (max(side) for side in zip(*((each.out_height, each.out_width) for each in regions), strict=True))
    images = torch.zeros((len(regions), height, width, 3), dtype=torch.uint8, device=pixels.device).permute(0, 3, 1, 2)
    step = max(1, PIXELS // (max(each.height for each in regions) * max(each.width for each in regions)))
    for start in range(0, len(regions), step):
        part = _resample(pixels, regions[start : start + step])
        images[start : start + step, :, : part.shape[2], : part.shape[3]] = part
    return images


def _resample(pixels: Tensor, regions: Sequence[Region]) -> Tensor:
    """Return `[B, 3, H, W]`, whole numbers from 0 to 255."""
    table = send(torch.tensor(regions), pixels.device)  # [B, 15]
    p: Any = Region(*table.unsqueeze(-1).unbind(1))  # type: ignore[arg-type]  # each [B, 1]
    sides = {name: max(getattr(each, name) for each in regions) for name in Region._fields}
    rows = p.top + torch.minimum(_numbers(sides["height"], pixels), p.height - 1)  # [B, h]
    columns = torch.minimum(_numbers(sides["width"], pixels), p.width - 1)  # [B, w]
    columns = p.left + torch.where(p.flipped > 0, p.width - 1 - columns, columns)
    read = (p.offset + p.stride * rows)[:, :, None] + columns[:, None]  # [B, h, w]
    source = pixels.index_select(0, read.flatten()).view(*read.shape, 3).permute(0, 3, 1, 2)
    dtype = torch.float16 if pixels.device.type in HALF else torch.float32
    source = source.to(dtype, memory_format=torch.contiguous_format)  # [B, 3, h, w]
    down = resize_matrix(p.box_height, p.out_height, sides["box_height"], sides["out_height"])  # [B, H, h]
    across = resize_matrix(p.box_width, p.out_width, sides["box_width"], sides["out_width"])  # [B, W, w]
    if any((e.zoom_height, e.zoom_width, e.box_height, e.box_width) != 2 * (e.height, e.width) for e in regions):
        down = down @ resize_matrix(p.height, p.zoom_height, sides["height"], sides["box_height"], p.box_top, p.box_height)
        across = across @ resize_matrix(p.width, p.zoom_width, sides["width"], sides["box_width"], p.box_left, p.box_width)
    images = down[:, None].to(dtype) @ source @ across[:, None].to(dtype).mT  # [B, 3, H, W]
    return images.round_().clamp_(0, 255)


def resize_matrix(
    before: Tensor, after: Tensor, columns: int, rows: int, first: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """Return matrices that resize lines of pixels, by a triangle as wide as the larger of both pixels (antialiased bilinear).

    Args:
        before, after: lengths in pixels, int64 `[B, 1]`.
        columns, rows: of the matrices, at least the largest `before` and `count`; what is beyond a line's is 0.
        first, count: pixels of the result that are wanted, int64 `[B, 1]`; None: all.

    Returns:
        float32 `[B, rows, columns]`.
    """
    number = _numbers(rows, before)
    scale = before.float() / after  # [B, 1]
    centre = scale * ((number if first is None else number + first) + 0.5)  # [B, rows]
    distance = _numbers(columns, before) + 0.5 - centre[..., None]  # [B, rows, columns]
    weight = (1 - distance.abs_().div_(scale.clamp(min=1)[..., None])).clamp_(min=0)
    weight *= (_numbers(columns, before) < before)[:, None]
    weight /= weight.sum(2, keepdim=True).clamp_(min=1e-6)
    weight *= (number < (after if count is None else count))[..., None]
    return weight


def padding_mask(regions: Sequence[Region], device: torch.device) -> Tensor | None:
    """Return where views are padded in a batch, bool `[B, H, W]`; None where they have one size."""
    sizes = [(each.out_height, each.out_width) for each in regions]
    if len({*sizes}) == 1:
        return None
    height, width = (send(torch.tensor(side), device)[:, None] for side in zip(*sizes, strict=True))  # [B, 1]
    rows, columns = (torch.arange(max(side), device=device) for side in zip(*sizes, strict=True))
    return (rows >= height)[:, :, None] | (columns >= width)[:, None]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; the host does not wait for CUDA."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _numbers(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)
