"""Composing a picture: the pose and colours of objects, drawn from a seed z alone, and where each of them is seen.

A layer is an object in the frame: float32 `[S, S, 4]`, colours 0-255 multiplied by alpha, and alpha 0-1. Layers are put over the
background from back to front, `picture = (1 - alpha) * picture + colours`. The visible part of an object in a pixel is its alpha
times what the layers before it let through; its mask is where that is more than a half. Blur, noise and JPEG follow, the same
for object and background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets.composites.backgrounds import cut_background, load_photograph, render_background
from datasets.composites.cutouts import FAINT, MIN_PIXELS, read_cutout
from datasets.composites.marks import mark_layer
from datasets.rendering import apply_sensor, draw_sensor, shrink

# Each group of draws has a stream of its own, so that a change to one leaves the others alone.
STREAMS = ("cutout", "pose", "colours", "photograph", "background", "sensor", "noise", "mark")
PAIR_SCALE = 0.7  # of the size of an object, where there are two
MAX_HIDDEN = 0.25  # of an object by the one before it
TRIES = 400  # of placing two objects; with any shapes and scales some are found
MEMORY = 2**28  # bytes of files that are kept in memory
LUMA = (0.299, 0.587, 0.114)


def stream(z: int, name: str) -> np.random.Generator:
    """Return the random generator of one group of draws for seed z."""
    return np.random.default_rng([z, STREAMS.index(name)])


@dataclass(frozen=True)
class Change:
    """How much objects are changed.

    Attributes:
        scale: least and most of the longer side of an object, as a share of the picture's side.
        rotation: degrees, to either side.
        flip: mirror half of them.
        perspective: shear and foreshortening, to either side.
        brightness, saturation: shares, to either side.
        hue: degrees of the colour circle, to either side.
    """

    scale: tuple[float, float] = (0.4, 0.8)
    rotation: float = 30.0
    flip: bool = True
    perspective: float = 0.15
    brightness: float = 0.3
    saturation: float = 0.3
    hue: float = 15.0


class Pose(NamedTuple):
    """Where an object is: share of the picture's side, homography `[3, 3]` about its centre, place (0-1) in the free room."""

    share: float
    matrix: np.ndarray
    place: np.ndarray


class Object(NamedTuple):
    """A cut-out in memory: colours multiplied by alpha, and alpha, uint8 `[h, w, 4]`; corners of its convex hull `[n, 2]`."""

    pixels: np.ndarray
    hull: np.ndarray


class Plan(NamedTuple):
    """A picture to be composed: the split whose backgrounds it has, its seed, its one or two cut-outs, from back to front, and
    the class whose mark it has, if any, before the one."""

    split: str
    z: int
    cutouts: tuple[Path, ...]
    mark: int | None = None


class Composite(NamedTuple):
    """A picture uint8 `[S, S, 3]` RGB, and the visible mask of each object and of the mark: bool `[n, S, S]`."""

    image: np.ndarray
    masks: np.ndarray


def draw_pose(rng: np.random.Generator, change: Change) -> Pose:
    """Draw a pose; the numbers drawn do not depend on the object."""
    share = rng.uniform(*change.scale)
    turn, shear, *tilt = rng.uniform(-1, 1, 4) * [math.radians(change.rotation), *[change.perspective] * 3]
    mirror = -1 if rng.random() < 0.5 and change.flip else 1
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = np.eye(3)
    matrix[:2, :2] = rotation @ [[1, shear], [0, 1]] @ np.diag([mirror, 1])
    matrix[2, :2] = tilt
    return Pose(share, matrix, rng.random(2))


def draw_colours(rng: np.random.Generator, change: Change) -> np.ndarray:
    """Draw a matrix `[3, 3]` that turns the hue of an RGB colour about grey, then scales saturation and brightness."""
    shift, brightness, saturation = rng.uniform(-1, 1, 3) * [math.radians(change.hue), change.brightness, change.saturation]
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # Rodrigues' formula about (1, 1, 1)
    hue = math.cos(shift) * np.eye(3) + math.sin(shift) * axis + (1 - math.cos(shift)) / 3
    return (1 + brightness) * ((1 + saturation) * np.eye(3) - saturation * np.tile(LUMA, (3, 1))) @ hue


def load_object(path: Path, side: int) -> Object:
    """Read a cut-out and shrink it to at most `side` pixels; raises as `read_cutout`."""
    pixels = read_cutout(path)
    pixels[..., :3] = (pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255
    pixels = shrink(pixels, side)
    seen = np.argwhere(pixels[..., 3] >= FAINT)[:, ::-1]  # [n, 2], x and y
    corners = np.concatenate([seen + offset for offset in ((0, 0), (1, 0), (0, 1), (1, 1))])
    return Object(pixels, cv2.convexHull(corners.astype(np.float32)).reshape(-1, 2).astype(float))


def place(thing: Object, pose: Pose, colours: np.ndarray, size: int) -> np.ndarray:
    """Return the layer of an object, which is whole inside the frame: float32 `[size, size, 4]`."""
    sides = np.array(thing.pixels.shape[1::-1], float)
    longest = sides.max()
    centred = (thing.hull - sides / 2) / longest
    projected = np.column_stack([centred, np.ones(len(centred))]) @ pose.matrix.T
    projected = projected[:, :2] / projected[:, 2:]
    low, high = projected.min(0), projected.max(0)
    factor = pose.share * size / (high - low).max()
    corner = pose.place * (size - factor * (high - low)) - factor * low
    pixels = shrink(thing.pixels, factor)
    scale = sides / pixels.shape[1::-1] / longest
    from_pixels = _affine(scale, 0.5 * scale - sides / 2 / longest)  # OpenCV's coordinates are those of the centres of pixels
    homography = _affine((factor, factor), corner - 0.5) @ pose.matrix @ from_pixels
    layer = cv2.warpPerspective(pixels, homography, (size, size), flags=cv2.INTER_LINEAR).astype(np.float32)
    layer[..., :3] = np.clip(layer[..., :3] @ colours.T.astype(np.float32), 0, layer[..., 3:])
    layer[..., 3] /= 255
    return layer


def _affine(scale: Sequence[float] | np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])


def blend(background: np.ndarray, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Put layers, from back to front, over a background uint8 `[S, S, 3]`; return the same."""
    canvas = background.astype(np.float32)
    for layer in layers:
        canvas = canvas * (1 - layer[..., 3:]) + layer[..., :3]
    return np.rint(canvas).clip(0, 255).astype(np.uint8)


def seen_masks(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the visible mask of each layer, from back to front: bool `[n, S, S]`; no pixel is in two of them."""
    through = np.ones(layers[0].shape[:2], np.float32)
    seen = []
    for layer in layers[::-1]:
        seen.append(layer[..., 3] * through > 0.5)
        through = through * (1 - layer[..., 3])
    return np.stack(seen[::-1])


@dataclass(frozen=True)
class Composer:
    """Composes pictures of `size` pixels a side; keeps some of the files that it reads in memory.

    Attributes:
        size: side of a picture.
        change: how much objects are changed.
        backgrounds: the photographs of each split; none: backgrounds are rendered.
    """

    size: int
    change: Change
    backgrounds: Mapping[str, Sequence[Path]]
    _object: Callable[[Path], Object] = field(init=False, repr=False)
    _photograph: Callable[[Path], np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        side = 2 * self.size
        kept = max(8, MEMORY // (4 * side * side))
        object.__setattr__(self, "_object", lru_cache(kept)(partial(load_object, side=side)))
        object.__setattr__(self, "_photograph", lru_cache(kept)(partial(load_photograph, side=side)))

    def place(self, plan: Plan) -> list[np.ndarray]:
        """Return the layers of a picture, from back to front.

        Raises:
            ValueError: a cut-out cannot be read, or two of them find no place.
        """
        things = [self._object(path) for path in plan.cutouts]
        rng, paint = stream(plan.z, "pose"), stream(plan.z, "colours")
        colours = [draw_colours(paint, self.change) for _ in things]
        if len(things) == 1:
            layer = place(things[0], draw_pose(rng, self.change), colours[0], self.size)
            return [layer] if plan.mark is None else [layer, mark_layer(plan.mark, self.size)]
        for _ in range(TRIES):
            poses = [draw_pose(rng, self.change) for _ in things]
            poses = [pose._replace(share=PAIR_SCALE * pose.share) for pose in poses]
            layers = [place(*drawn, self.size) for drawn in zip(things, poses, colours, strict=True)]
            if (seen_masks(layers).sum((1, 2)) >= MIN_PIXELS).all() and visible_shares(layers).min() >= 1 - MAX_HIDDEN:
                return layers
        both = " and ".join(str(path) for path in plan.cutouts)
        raise ValueError(f"{both}: no place was found where both are seen: give a larger --size, another --scale, or --pairs 0")

    def compose(self, plan: Plan) -> Composite:
        """Compose a picture; raises as `place`, and an ImageError for a background that cannot be read."""
        layers, sensor = self.place(plan), draw_sensor(stream(plan.z, "sensor"))
        image = apply_sensor(blend(self._background(plan), layers), sensor, stream(plan.z, "noise"))
        return Composite(image, seen_masks(layers))

    def background_of(self, plan: Plan) -> Path | None:
        """Return the photograph behind a picture, None if that is rendered."""
        photographs, choice = self.backgrounds[plan.split], stream(plan.z, "photograph").random()
        return photographs[int(choice * len(photographs))] if photographs else None

    def _background(self, plan: Plan) -> np.ndarray:
        path, rng = self.background_of(plan), stream(plan.z, "background")
        return cut_background(self._photograph(path), rng, self.size) if path else render_background(rng, self.size)


def visible_shares(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Return which share of each object is seen, of its pixels in the frame: `[n]`."""
    whole = np.array([np.count_nonzero(layer[..., 3] > 0.5) for layer in layers])
    return seen_masks(layers).sum((1, 2)) / np.maximum(whole, 1)
