"""What the data sets that are rendered share: the order of seeds and classes, colours, shapes, noise and the sensor."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.folders import SPLITS

FORMATS = ("png", "jpg")
JPG_QUALITY = 95
Colour = tuple[float, float, float]  # RGB, 0-255


def plan_split(classes: Sequence[str], split: str, count: int, seed: int) -> list[tuple[int, str]]:
    """Draw (z, class) of every picture of a split: seeds without repetition, classes balanced to within one, shuffled.

    Raises:
        ValueError: train has fewer pictures than there are classes.
    """
    if split == "train" and count < len(classes):
        raise ValueError(f"train is {count}: it must be at least {len(classes)}, one for each class")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    seeds: dict[int, None] = {}
    while len(seeds) < count:  # the split is in the lowest digits, so that no two splits share a seed
        seeds[int(rng.integers(2**48 // 3)) * 3 + SPLITS.index(split)] = None
    cycle = rng.permutation(len(classes))
    labels = rng.permutation([int(cycle[i % len(classes)]) for i in range(count)])
    return [(z, classes[label]) for z, label in zip(seeds, labels, strict=True)]


def draw_mark(rng: np.random.Generator, own: int, count: int, rate: float) -> int:
    """Draw the index of a shortcut's mark, of `count`: `own`, that of the class, with probability `rate`, otherwise another."""
    chance, other = rng.random(2)
    return own if chance < rate else (own + 1 + int(other * (count - 1))) % count


def hsv(h: float, s: float, v: float) -> Colour:
    """Return a colour from hue, of which 1 is a whole turn, saturation and value, both 0-1."""
    r, g, b = colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))
    return (255 * r, 255 * g, 255 * b)


def draw_paint(rng: np.random.Generator) -> Colour:
    """Draw a colour of the palette that aeroplanes, distractors and occluders share: metal and white, or saturated."""
    h, s, v, kind = rng.random(4)
    return hsv(h, 0.16 * s, 0.5 + 0.5 * v) if kind < 0.35 else hsv(h, 0.4 + 0.6 * s, 0.4 + 0.6 * v)


@dataclass(frozen=True)
class Shape:
    """A distractor or an occluder, in units of the frame."""

    kind: str
    centre: np.ndarray  # [2]
    radii: np.ndarray  # [2]
    angle: float
    colour: Colour

    def outline(self) -> np.ndarray:
        """Return the polygon [n, 2]."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return UNIT_SHAPES[self.kind] * self.radii @ np.array([[c, s], [-s, c]]) + self.centre

    def covers(self, points: np.ndarray) -> np.ndarray:
        """Return which of the points [m, 2] lie inside an ellipse or a bar: bool [m]."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        local = np.abs((points - self.centre) @ np.array([[c, -s], [s, c]]) / self.radii)
        return (local**2).sum(axis=1) <= 1 if self.kind == "ellipse" else local.max(axis=1) <= 1


_ANGLES = np.arange(28) * 2 * np.pi / 28
UNIT_SHAPES = {
    "ellipse": np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1),
    "bar": np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]),
    "triangle": np.array([[-1, 0.8], [1, 0.8], [-0.4, -1]]),
    "kite": np.array([[-1, 0], [0.3, -0.7], [1, 0], [0.3, 0.7]]),
    "bird": np.array([[-1, -0.5], [-0.35, -0.3], [0, 0.25], [0.35, -0.3], [1, -0.5], [0.4, 0.15], [0, 0.6], [-0.4, 0.15]]),
}


def draw_distractors(rng: np.random.Generator, fewer_than: int = 6) -> tuple[Shape, ...]:
    """Draw small shapes, of the colours that objects may have, for a background."""
    shapes, kinds = [], list(UNIT_SHAPES)
    for _ in range(int(rng.random() * fewer_than)):
        kind, centre = kinds[int(rng.random() * len(kinds))], rng.random(2)
        shapes.append(Shape(kind, centre, rng.uniform(0.015, 0.085, 2), rng.uniform(0, math.pi), draw_paint(rng)))
    return tuple(shapes)


def fill_shapes(shapes: Iterable[Shape], canvas: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Draw distractors or occluders, in place, and clear the labels there."""
    for shape in shapes:
        corners = to_pixels(shape.outline() * len(canvas))
        cv2.fillPoly(canvas, [corners], shape.colour)
        if labels is not None:
            cv2.fillPoly(labels, [corners], 0)


def to_pixels(points: np.ndarray) -> np.ndarray:
    """Return the pixels of points [n, 2], in the form that OpenCV's fillPoly takes: int32."""
    return np.rint(points - 0.5).astype(np.int32)


def cloud_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw noise of three octaves, 0-1 or a little beyond: float32 [side, side]."""
    clouds = np.zeros((side, side), np.float32)
    for cells, weight in ((3, 0.5), (6, 0.3), (12, 0.2)):
        grid = rng.random((cells, cells)).astype(np.float32)
        clouds += weight * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return clouds


@dataclass(frozen=True)
class Sensor:
    """Blur, noise and JPEG, in pixels of the picture."""

    blur: float  # sigma
    noise: float  # standard deviation, grey levels
    quality: int

    @property
    def blur_radius(self) -> int:
        """Half the width of the (finite) kernel, in pixels."""
        return max(1, round(2.5 * self.blur))


def draw_sensor(rng: np.random.Generator) -> Sensor:
    """Draw a mild sensor."""
    return Sensor(blur=rng.uniform(0.3, 0.75), noise=rng.uniform(1.0, 7.0), quality=int(rng.uniform(62, 96)))


def apply_sensor(image: np.ndarray, sensor: Sensor, rng: np.random.Generator) -> np.ndarray:
    """Apply blur, noise of `rng` and JPEG 4:4:4 to a picture uint8 [H, W, 3]."""
    kernel = 2 * sensor.blur_radius + 1
    image = cv2.GaussianBlur(image, (kernel, kernel), sensor.blur)
    grain = np.rint(rng.standard_normal(image.shape, dtype=np.float32) * sensor.noise)
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, sensor.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    decoded = cv2.imdecode(cv2.imencode(".jpg", image, options)[1], cv2.IMREAD_COLOR)  # red and blue are swapped twice
    return np.asarray(decoded)


def shrink(pixels: np.ndarray, side: float, of: Callable[..., int] = max) -> np.ndarray:
    """Shrink a picture `[H, W, ...]` so that the longer side, or the shorter (`of=min`), has at most `side` pixels."""
    ratio = side / of(pixels.shape[:2])
    if ratio >= 1:
        return pixels
    return cv2.resize(pixels, [max(1, round(length * ratio)) for length in pixels.shape[1::-1]], interpolation=cv2.INTER_AREA)


def encode(image: np.ndarray, image_format: str = "png") -> bytes:
    """Encode a picture uint8 BGR [H, W, 3] or grey [H, W] in one of `FORMATS`."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPG_QUALITY] if image_format == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    return cv2.imencode(f".{image_format}", image, options)[1].tobytes()
