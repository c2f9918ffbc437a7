"""Planted shortcuts: a mark in the corner of a picture, one for each class, as a watermark or the stamp of a camera would be."""

from __future__ import annotations

import numpy as np

from datasets.rendering import UNIT_SHAPES, Shape, fill_shapes, hsv, shrink

SIDE, EDGE = 0.18, 0.05  # of the mark, and of what is free between it and the edges, as shares of the picture's side
SUPERSAMPLING = 8
GOLDEN = 0.618034  # neighbouring numbers give hues far apart


def mark_layer(index: int, size: int) -> np.ndarray:
    """Draw the mark of class `index` as a layer of a picture: float32 `[size, size, 4]`, colours times alpha, and alpha.

    It is a disc in the lower left corner; its hue, and the shape and the hue inside, are those of the class.
    """
    kinds, hue = list(UNIT_SHAPES), GOLDEN * index
    disc = Shape("ellipse", np.full(2, 0.5), np.full(2, 0.5), 0, hsv(hue, 1, 0.9))
    inside = Shape(kinds[index % len(kinds)], np.full(2, 0.5), np.full(2, 0.3), 0, hsv(hue + 0.5, 0.3, 1))
    side = max(4, round(SIDE * size))
    canvas, alpha = np.zeros((2, side * SUPERSAMPLING, side * SUPERSAMPLING, 3), np.uint8)
    fill_shapes((disc, inside), canvas)
    fill_shapes((Shape("ellipse", disc.centre, disc.radii, 0, (255, 255, 255)),), alpha)
    layer, edge = np.zeros((size, size, 4), np.float32), round(EDGE * size)
    window = slice(size - edge - side, size - edge), slice(edge, edge + side)
    layer[window] = np.dstack([shrink(canvas, side), shrink(alpha, side)[..., :1] / np.float32(255)])
    return layer
