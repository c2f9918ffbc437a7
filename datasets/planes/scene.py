"""The scene of a factorial-planes picture: camera, colours, sky, distractors, occluders and sensor, without the class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

# Each group of draws has a stream of its own, so that a change to one leaves the others alone.
STREAMS = ("attachment", "pose", "colours", "sensor", "occluders", "clouds", "roundel", "noise", "distractors")

Colour = tuple[float, float, float]  # RGB, 0-255
Jitter = tuple[np.ndarray, np.ndarray]  # scale [3], shift [3]


def stream(z: int, name: str) -> np.random.Generator:
    """Return the random generator of one group of draws for seed z."""
    return np.random.default_rng([z, STREAMS.index(name)])


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


@dataclass(frozen=True)
class Scene:
    """Everything of a picture but its class, in units of the frame; `draw_scene` draws one."""

    z: int
    camera: np.ndarray  # [2, 3]: aeroplane coordinates to frame coordinates, 0-1, y down
    offset: np.ndarray  # [2]
    sweep: float
    span: float
    jitter: dict[str, Jitter]  # slot -> its displacement
    colours: dict[str, Colour]
    sky: tuple[Colour, Colour, Colour]  # top, bottom, cloud
    cloud_cover: float
    distractors: tuple[Shape, ...]
    occluders: tuple[Shape, ...]
    sensor: Sensor

    def project(self, part: str, points: np.ndarray, anchors: np.ndarray | tuple[float, ...]) -> np.ndarray:
        """Project points [n, 3] of a part to frame coordinates [n, 2]."""
        return attach(points, np.asarray(anchors), self.jitter.get(part), self.sweep, self.span) @ self.camera.T + self.offset

    def background(self, size: int) -> np.ndarray:
        """Paint sky and clouds: uint8 [size, size, 3]."""
        rng, small = stream(self.z, "clouds"), 72
        clouds = np.zeros((small, small), np.float32)
        for cells, weight in ((3, 0.5), (6, 0.3), (12, 0.2)):
            grid = rng.random((cells, cells)).astype(np.float32)
            clouds += weight * cv2.resize(grid, (small, small), interpolation=cv2.INTER_CUBIC)
        alpha = np.clip((clouds - (0.72 - 0.3 * self.cloud_cover)) * 5, 0, 0.8)[..., None]
        ramp = np.linspace(0, 1, small, dtype=np.float32)[:, None, None]
        top, bottom, cloud = (np.array(c, np.float32) for c in self.sky)
        sky = (top * (1 - ramp) + bottom * ramp) * (1 - alpha) + cloud * alpha
        return cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)


def attach(points: np.ndarray, anchors: np.ndarray, jitter: Jitter | None, sweep: float, span: float) -> np.ndarray:
    """Apply the attachment jitter about the anchors, then sweep and span, to points [n, 3]."""
    if jitter is not None:
        points = anchors + (points - anchors) * jitter[0] + jitter[1]
    placed = points.copy()
    placed[:, 0] -= sweep * np.abs(points[:, 1])
    placed[:, 1] *= span
    return placed
