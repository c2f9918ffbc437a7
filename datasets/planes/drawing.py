"""Rasterisation of factorial planes: polygons of a scene to pixels, to masks of the parts, and through the sensor."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from datasets.planes.parts import PARTS, Piece
from datasets.planes.presets import ROUNDELS
from datasets.planes.scene import Scene, Sensor, stream


def supersampling(size: int) -> int:
    """Return the factor by which a picture of that size is drawn larger than it is."""
    return max(2, -(-384 // size))


def to_pixels(points: np.ndarray, size: int) -> np.ndarray:
    """Convert frame coordinates [n, 2] to integer pixels of a picture of that size."""
    return np.rint(points * size - 0.5).astype(np.int32)


def _outline_width(scene: Scene, size: int) -> int:
    return max(1, round(0.012 * size * float(np.linalg.norm(scene.camera[:, 0]))))


def _stamp(canvas: np.ndarray, corners: np.ndarray, width: int, fill: Any, line: Any) -> None:
    """Fill a polygon and draw its outline, in place; the pixels do not depend on the kind of canvas."""
    cv2.fillPoly(canvas, [corners], fill)
    if width:
        cv2.polylines(canvas, [corners], True, line, width)


def amodal_masks(scene: Scene, pieces: list[Piece], size: int, scale: int) -> dict[str, np.ndarray]:
    """Draw the mask of each part, hidden pixels included: uint8 [size * scale, size * scale], 0 or 255."""
    big, width = size * scale, _outline_width(scene, size * scale)
    masks: dict[str, np.ndarray] = {}
    for piece in pieces:
        if piece.part not in masks:
            masks[piece.part] = np.zeros((big, big), np.uint8)
        corners = to_pixels(scene.project(piece.part, piece.points, piece.anchor), big)
        _stamp(masks[piece.part], corners, width if piece.solid else 0, 255, 255)
    return masks


def touched_pixels(mask: np.ndarray, size: int) -> np.ndarray:
    """Return the pixels that a mask [size * scale, size * scale] covers at least in part: bool [size, size]."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > 0


def draw(scene: Scene, pieces: list[Piece], roundel_index: int | None, size: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw background, pieces and occluders: picture uint8 [S, S, 3] and part index uint8 [S, S], S = size * scale."""
    big, width = size * scale, _outline_width(scene, size * scale)
    colours = dict(scene.colours)
    if roundel_index is not None:
        colours["outer"], colours["inner"] = ROUNDELS[roundel_index]
        colours["rim"] = (245, 245, 245)
    canvas, labels = scene.background(big), np.zeros((big, big), np.uint8)
    for shape in scene.distractors:
        cv2.fillPoly(canvas, [to_pixels(shape.outline(), big)], shape.colour)
    for piece in pieces:
        corners = to_pixels(scene.project(piece.part, piece.points, piece.anchor), big)
        fill = tuple(min(255.0, c * piece.tone) for c in colours[piece.paint])
        edge = tuple(0.35 * c for c in fill)
        index = PARTS.index(piece.part) + 1
        _stamp(canvas, corners, width if piece.solid else 0, fill, edge)
        _stamp(labels, corners, width if piece.solid else 0, index, index)
    for shape in scene.occluders:
        corners = to_pixels(shape.outline(), big)
        cv2.fillPoly(canvas, [corners], shape.colour)
        cv2.fillPoly(labels, [corners], 0)
    return canvas, labels


def apply_sensor(image: np.ndarray, sensor: Sensor, z: int) -> np.ndarray:
    """Apply blur, the noise of z and JPEG 4:4:4 to a picture uint8 [H, W, 3]."""
    kernel = 2 * sensor.blur_radius + 1
    image = cv2.GaussianBlur(image, (kernel, kernel), sensor.blur)
    grain = np.rint(stream(z, "noise").standard_normal(image.shape, dtype=np.float32) * sensor.noise)
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, sensor.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    decoded = cv2.imdecode(cv2.imencode(".jpg", image, options)[1], cv2.IMREAD_COLOR)  # red and blue are swapped twice
    return np.asarray(decoded)
