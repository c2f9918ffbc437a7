"""Drawing attribution maps over their images: from the cells of a feature grid to coloured pixels.

Images are uint8 RGB `[H, W, 3]`. Non-negative maps have matplotlib's perceptually uniform inferno colours, signed ones the
diverging RdBu_r around zero; both are safe for colour-blind eyes. The colours are blended into the image with a weight that rises
with the map, so that the image stays visible where the map is low.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from util.plotting import colormaps

COLOURS, SIGNED_COLOURS = "inferno", "RdBu_r"
WEIGHT, SIGNED_WEIGHT = (0.2, 0.6), (0.0, 0.7)  # of the colour of the weakest and of the strongest value over the image
CONSTANT = 1e-5
Size = tuple[int, int]  # height and width


class Scale(NamedTuple):
    """The values that the first and the last colour stand for: -m and m for signed maps, so that the middle colour is zero."""

    low: float
    high: float
    signed: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Return the place of values between the first colour, 0, and the last, 1; on an empty scale the first, or zero."""
        if self.high <= self.low:
            return np.full(values.shape, 0.5 if self.signed else 0, np.float32)
        return ((values - self.low) / (self.high - self.low)).clip(0, 1).astype(np.float32)


def common_scale(maps: np.ndarray, signed: bool = False) -> Scale:
    """Return the scale of several maps that are compared: from 0 (or, if `signed`, around 0) to the largest value of all."""
    high = max(0.0, float(np.abs(maps).max() if signed else maps.max()))
    return Scale(-high if signed else 0.0, high, signed)


def own_scale(values: np.ndarray, signed: bool = False) -> Scale:
    """Return the scale of one map alone: from its minimum to its maximum, empty for a constant map; around 0 if `signed`."""
    if signed:
        return common_scale(values, signed)
    low, high = float(values.min()), float(values.max())
    return Scale(low, low if lack_of_pattern(values) else high)


def lack_of_pattern(values: np.ndarray) -> str:
    """Say why a map shows nothing: it is constant or not finite; an empty string for one with a pattern."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return "not finite"
    if high - low <= CONSTANT * abs(high):  # what rounding leaves of a constant is no pattern
        return "the same everywhere" if high else "zero everywhere"
    return ""


def at_pixels(maps: np.ndarray, padded_size: Size, valid_size: Size, size: Size, *, cells: bool = False) -> np.ndarray:
    """Bring maps `[N, h, w]` from the feature grid of a padded batch to the pixels of their image: float32 `[N, *size]`.

    The grid covers the padded input; only the part of it that lies on the image counts. Interpolation is cubic and never exceeds
    a map's own values; the cells on the border of the image repeat outwards, so that nothing leaks in from the padding. With
    `cells` each pixel has the value of the cell that it is in.

    Args:
        padded_size: height and width of the network's input, padding included.
        valid_size: height and width of the image in it, which starts in its upper left corner.
    """
    extents = [maps.shape[axis + 1] * valid_size[axis] / padded_size[axis] for axis in (0, 1)]  # in cells
    grid = valid_cells(maps, padded_size, valid_size).astype(np.float32)
    rows, columns = grid.shape[1:]
    if cells:
        y, x = (
            (((np.arange(size[axis]) + 0.5) / size[axis]) * extents[axis]).astype(int).clip(0, count - 1)
            for axis, count in ((0, rows), (1, columns))
        )
        return grid[:, y[:, None], x]
    enlarged = _cubic(size[0], rows, extents[0]) @ grid @ _cubic(size[1], columns, extents[1]).T
    return enlarged.clip(grid.min((1, 2), keepdims=True), grid.max((1, 2), keepdims=True), out=enlarged)


def valid_cells(maps: np.ndarray, padded_size: Size, valid_size: Size) -> np.ndarray:
    """Return the cells `[N, rows, columns]` of maps `[N, h, w]` that lie on the picture, at least partly; sizes as above."""
    rows, columns = (-(-maps.shape[axis + 1] * valid_size[axis] // padded_size[axis]) for axis in (0, 1))
    return maps[:, :rows, :columns]


def _cubic(pixels: int, cells: int, extent: float) -> np.ndarray:
    """Return weights `[pixels, cells]` that enlarge the first `extent` cells (Keys 1981, eq. 4, with a = -0.75)."""
    position = (np.arange(pixels) + 0.5) / pixels * extent - 0.5
    base = np.floor(position).astype(int)
    weights = np.zeros((pixels, cells), np.float32)
    for tap in (-1, 0, 1, 2):
        s = np.abs(position - base - tap)
        near, far = (1.25 * s - 2.25) * s**2 + 1, -0.75 * ((s - 5) * s + 8) * s + 3
        np.add.at(weights, (np.arange(pixels), (base + tap).clip(0, cells - 1)), np.where(s <= 1, near, far))
    return weights


def overlay(picture: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """Blend a map `values` `[H, W]` into its picture `[H, W, 3]`, in the colours of a scale."""
    place = scale.place(values)
    strength = np.abs(2 * place - 1) if scale.signed else place
    lowest, highest = SIGNED_WEIGHT if scale.signed else WEIGHT
    weight = (lowest + (highest - lowest) * strength).astype(np.float32)
    colours = _table(SIGNED_COLOURS if scale.signed else COLOURS)[(place * 255).round().astype(np.uint8)]
    return cv2.blendLinear(colours, np.ascontiguousarray(picture), weight, 1 - weight)


@lru_cache
def _table(name: str) -> np.ndarray:
    """Return the 256 colours of a colour map of matplotlib, uint8 `[256, 3]`."""
    return colormaps[name](np.arange(256), bytes=True)[:, :3].copy()


def fit(picture: np.ndarray, longest: int, enlarge: bool = True) -> np.ndarray:
    """Scale a picture to a long side of `longest` pixels; one that is smaller stays as it is unless `enlarge`."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale == 1 or (scale > 1 and not enlarge):
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
