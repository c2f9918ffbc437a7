"""The scene of a factorial-planes picture: everything but its class, drawn from one seed z before any variant is known.

`draw_scene(z)` never sees a class. Where a nuisance must respect the parts (nothing cropped, nothing hidden), it respects
all variants of all slots at once, so that pose and occluders are the same for every counterfactual and do not depend on which
variant is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from datasets.planes.parts import SLOTS, Piece, body_pieces, roundel_pieces, slot_pieces
from datasets.rendering import Colour, Sensor, Shape, cloud_noise, draw_distractors, draw_paint, draw_sensor, hsv

# Each group of draws has a stream of its own, so that a change to one leaves the others alone.
STREAMS = ("attachment", "pose", "colours", "sensor", "occluders", "clouds", "roundel", "noise", "distractors")

MAX_ROTATION = 35.0  # degrees
MAX_OCCLUDED = 0.18  # of any variant, by all occluders together
MARGIN = 0.025  # of the frame, free on every side of the aeroplane

Jitter = tuple[np.ndarray, np.ndarray]  # scale [3], shift [3]


def stream(z: int, name: str) -> np.random.Generator:
    """Return the random generator of one group of draws for seed z."""
    return np.random.default_rng([z, STREAMS.index(name)])


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
        small = 72
        clouds = cloud_noise(stream(self.z, "clouds"), small)
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


def draw_scene(z: int) -> Scene:
    """Draw the scene of seed z."""
    rng = stream(z, "attachment")
    jitter: dict[str, Jitter] = {}
    for slot in SLOTS:
        scale = np.full(3, rng.uniform(0.94, 1.08))
        shift = np.array([rng.uniform(-0.02, 0.02), 0.0, rng.uniform(-0.012, 0.012)])
        if slot == "nose":  # it continues the fuselage: longer or shorter, never beside it
            scale, shift = np.array([rng.uniform(0.88, 1.12), 1.0, 1.0]), np.zeros(3)
        elif slot == "wingtip":
            shift *= (0.5, 0.0, 0.0)
        jitter[slot] = (scale, shift)
    camera, offset, sweep, span = _pose(stream(z, "pose"), jitter)
    rng = stream(z, "colours")
    colours = {name: draw_paint(rng) for name in ("fuselage", "wings", *SLOTS, "stripe")}
    dark = rng.uniform(18, 55)
    colours |= {"glass": (dark, dark, dark + 22), "intake": (dark, dark, dark)}
    sky, cover = _sky(rng), rng.random()
    sensor = draw_sensor(stream(z, "sensor"))
    distractors = draw_distractors(stream(z, "distractors"))
    bare = Scene(z, camera, offset, sweep, span, jitter, colours, sky, cover, distractors, (), sensor)
    return replace(bare, occluders=_occluders(stream(z, "occluders"), bare))


def _pose(rng: np.random.Generator, jitter: dict[str, Jitter]) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Draw camera [2, 3], offset [2], sweep and span such that every variant of every slot is inside the frame."""
    sweep, span = rng.uniform(-0.06, 0.14), rng.uniform(0.9, 1.06)
    oblique = np.array([[1.0, rng.uniform(-0.2, 0.02), 0.0], [0.0, rng.uniform(0.5, 0.62), -1.0]])
    angle = math.radians(rng.uniform(-MAX_ROTATION, MAX_ROTATION))
    shear = np.array([[1.0, rng.uniform(-0.14, 0.14)], [0.0, 1.0]])
    flip = np.diag([1.0 if rng.random() < 0.5 else -1.0, 1.0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    camera = turn @ shear @ flip @ oblique
    attached = [attach(points, anchors, jitter.get(name), sweep, span) for name, (points, anchors) in _all_corners().items()]
    corners = np.concatenate(attached) @ camera.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    room = 1 - 2 * MARGIN
    scale = rng.uniform(0.68, 1.0) * room / float((high - low).max())
    free = room - scale * (high - low)
    offset = MARGIN + rng.random(2) * free - scale * low
    return scale * camera, offset, sweep, span


def _occluders(rng: np.random.Generator, scene: Scene) -> tuple[Shape, ...]:
    """Draw 0-3 shapes in front of the aeroplane; one that would hide more than MAX_OCCLUDED of any variant is drawn again."""
    points, average = _all_samples()
    projected = np.concatenate([scene.project(slot, p, anchors) for slot, (p, anchors) in points.items()])
    low, high = projected.min(axis=0), projected.max(axis=0)
    covered = np.zeros(len(projected), dtype=bool)
    kept: list[Shape] = []
    for _ in range(int(rng.random() * 4)):
        for _ in range(6):
            kind = "ellipse" if rng.random() < 0.5 else "bar"
            low_radii, high_radii = ([0.02] * 2, [0.07] * 2) if kind == "ellipse" else ([0.05, 0.006], [0.22, 0.018])
            radii = rng.uniform(low_radii, high_radii)
            shape = Shape(kind, low + rng.random(2) * (high - low), radii, rng.uniform(0, math.pi), draw_paint(rng))
            candidate = covered | shape.covers(projected)
            if (average @ candidate).max() <= MAX_OCCLUDED:
                covered = candidate
                kept.append(shape)
                break
    return tuple(kept)


@cache
def _all_corners() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return corners [n, 3] and anchors [n, 3] of every variant of each slot, and of the body."""
    groups = {slot: [p for v in variants for p in slot_pieces(slot, v)] for slot, variants in SLOTS.items()}
    groups["body"] = list(body_pieces())
    corners = {}
    for name, pieces in groups.items():
        anchors = [np.tile(p.anchor, (len(p.points), 1)) for p in pieces]
        corners[name] = np.concatenate([p.points for p in pieces]), np.concatenate(anchors)
    return corners


@cache
def _all_samples() -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Return sample points and anchors of all variants of each slot and of the roundel, and the matrix [variants, points] that
    averages a bool vector over the area of each."""
    shapes = {slot: [slot_pieces(slot, v) for v in variants] for slot, variants in SLOTS.items()}
    shapes["roundel"] = [roundel_pieces()]
    points: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    weights: list[np.ndarray] = []
    for part, variants in shapes.items():
        sampled, anchors, areas = zip(*map(_sample_area, variants), strict=True)
        points[part] = np.concatenate(sampled), np.concatenate(anchors)
        weights += areas
    average = np.zeros((len(weights), sum(map(len, weights))))
    start = 0
    for row, weight in zip(average, weights, strict=True):
        row[start : start + len(weight)] = weight
        start += len(weight)
    return points, average


def _sample_area(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample the area of pieces: points [m, 3], their anchors [m, 3] and weights [m] of sum 1; m = 0 without pieces.

    Each solid piece is filled with a lattice in its two widest coordinates; its weight is its bounding box there.
    """
    points, anchors, weights = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0)]
    for piece in pieces:
        if not piece.solid:
            continue
        low, size = piece.points.min(axis=0), np.ptp(piece.points, axis=0)
        axes = sorted(np.argsort(size)[1:])
        flat = piece.points[:, axes]
        lattice = np.stack(np.meshgrid(*((np.arange(14) + 0.5) / 14,) * 2), axis=-1).reshape(-1, 2) * size[axes] + low[axes]
        inside = np.array([cv2.pointPolygonTest(flat.astype(np.float32), point, False) >= 0 for point in lattice.tolist()])
        plane = np.linalg.lstsq(np.column_stack([flat, np.ones(len(flat))]), piece.points, rcond=None)[0]  # [3, 3]
        filled = np.column_stack([lattice[inside], np.ones(inside.sum())]) @ plane
        points.append(filled)
        anchors.append(np.tile(piece.anchor, (len(filled), 1)))
        weights.append(np.full(len(filled), size[axes].prod()))
    weight = np.concatenate(weights)
    return np.concatenate(points), np.concatenate(anchors), weight / max(weight.sum(), 1e-12)


def _sky(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    """Draw top, bottom and cloud colour: day, dusk, overcast or any hue."""
    kind, h, s, v, light = rng.random(5)
    if kind < 0.45:
        top = hsv(0.54 + 0.1 * h, 0.4 + 0.4 * s, 0.55 + 0.4 * v)
        return top, hsv(0.53 + 0.08 * h, 0.12 + 0.2 * s, 0.85 + 0.15 * light), hsv(0.6, 0.03, 0.9 + 0.1 * light)
    if kind < 0.65:
        top = hsv(0.6 + 0.18 * h, 0.35 + 0.35 * s, 0.25 + 0.35 * v)
        bottom = hsv(0.02 + 0.1 * h, 0.3 + 0.45 * s, 0.7 + 0.3 * light)
        return top, bottom, hsv(0.95 + 0.1 * h, 0.25, 0.6 + 0.3 * light)
    if kind < 0.85:
        return hsv(h, 0.08 * s, 0.4 + 0.45 * v), hsv(h, 0.08 * s, 0.6 + 0.35 * light), hsv(h, 0.05, 0.5 + 0.5 * light)
    return hsv(h, 0.2 + 0.5 * s, 0.3 + 0.6 * v), hsv(h + 0.1, 0.1 + 0.4 * s, 0.4 + 0.6 * light), hsv(h, 0.1, 0.5 + 0.5 * light)
