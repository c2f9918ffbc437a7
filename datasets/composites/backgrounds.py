"""Backgrounds of composites, independent of the class: a part of a photograph, or rendered."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from datasets.decode import decode_image
from datasets.rendering import cloud_noise, draw_distractors, draw_paint, fill_shapes, shrink

LEAST_PART = 0.6  # of the shorter side of a photograph
SUPERSAMPLING, SHAPES = 2, 14


def load_photograph(path: Path, side: int) -> np.ndarray:
    """Read a photograph and shrink it to a shorter side of at most `side` pixels: uint8 `[H, W, 3]` RGB.

    Raises:
        ImageError: it cannot be read.
    """
    return shrink(decode_image(path).permute(1, 2, 0).numpy(), side, min)


def cut_background(pixels: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Cut a square out of a photograph uint8 `[H, W, 3]`, mirrored or not: uint8 `[size, size, 3]`."""
    part, *corner, mirrored = rng.random(4)
    side = max(1, round((LEAST_PART + (1 - LEAST_PART) * part) * min(pixels.shape[:2])))
    top, left = (round(place * (length - side)) for place, length in zip(corner, pixels.shape[:2], strict=True))
    square = pixels[top : top + side, left : left + side]
    square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return cv2.flip(square, 1) if mirrored < 0.5 else square


def render_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Render clouds of three colours, a grain, and shapes in front of them: uint8 `[size, size, 3]` RGB."""
    side = size * SUPERSAMPLING
    canvas: np.ndarray = np.tile(np.array(draw_paint(rng), np.float32), (side, side, 1))
    for _ in range(2):
        alpha = np.clip((cloud_noise(rng, side) - 0.5) * rng.uniform(2, 9) + 0.5, 0, 1)[..., None]
        canvas = canvas * (1 - alpha) + np.array(draw_paint(rng), np.float32) * alpha
    cells = int(rng.uniform(20, 90))
    grain = rng.standard_normal((cells, cells), dtype=np.float32) * rng.uniform(2, 22)
    canvas += cv2.resize(grain, (side, side), interpolation=cv2.INTER_LINEAR)[..., None]
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    fill_shapes(draw_distractors(rng, SHAPES), canvas)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
