"""Factorial planes: a data set whose evidence is known to the pixel.

Aeroplanes are drawn from parts. A class is one combination of part variants, and all combinations are classes: no smaller
set of parts identifies a class, and every class has siblings that differ in exactly one slot. Everything else comes from a
seed z that classes do not touch: the same z with other variants is the same scene, the counterfactual.

What "identical outside the evidence" means, exactly. Let E be `pair_evidence` of two renders of one z.
- `render(..., sensor=False)`: the two pictures are equal in every pixel outside E.
- The final picture has been blurred by a finite kernel, given noise of z, and compressed as JPEG without chroma
  subsampling, whose 8 x 8 blocks are independent. The two pictures are equal in every pixel outside `footprint(E, z)`: E
  grown by the blur's radius (1-2 px), then to whole JPEG blocks. Between E and its footprint they differ by what a blur
  and a JPEG do there.
Reproduction is byte for byte with the same numpy and OpenCV; another JPEG library may move pixels by a grey level.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from datasets.planes.parts import PARTS, SLOTS, Piece, body_pieces, roundel, slot_pieces
from datasets.planes.scene import Colour, Scene, Sensor, draw_scene, stream

VERSION = 1
MIN_SIZE = 48
MAX_Z = 2**53  # a seed survives JSON readers that know only doubles
JPEG_BLOCK = 8

Variants = dict[str, str | None]

_PAIRS = {"nose": ("round", "drooped"), "engines": ("underwing", "rear"), "wingtip": ("plain", "winglet"), "tail": ("low", "T")}
_OUTER: tuple[Colour, ...] = ((205, 30, 40), (25, 60, 190), (20, 130, 60), (240, 185, 20))
_INNER: tuple[Colour, ...] = ((250, 250, 250), (15, 15, 15), (225, 60, 200), (50, 210, 225))
ROUNDELS = tuple(itertools.product(_OUTER, _INNER))


@dataclass(frozen=True)
class Preset:
    """Which variants each slot may take. `rate`: how often the roundel is that of the class (None: there is no roundel)."""

    name: str
    slots: dict[str, tuple[str, ...]]
    rate: float | None = None

    @property
    def classes(self) -> dict[str, Variants]:
        """Class name -> variants, in the order of the sorted names (the order of the logits)."""
        combinations: Iterator[Variants] = (
            dict(zip(self.slots, choice, strict=True)) for choice in itertools.product(*self.slots.values())
        )
        return dict(sorted((class_name(v), v) for v in combinations))

    def roundel_of(self, name: str, z: int) -> int | None:
        """The roundel that a picture of class `name` and seed z wears: that of its class at `rate`, else another's."""
        if self.rate is None:
            return None
        own = list(self.classes).index(name)
        chance, other = stream(z, "roundel").random(2)
        if chance < self.rate:
            return own
        return (own + 1 + int(other * (len(ROUNDELS) - 1))) % len(ROUNDELS)


@dataclass(frozen=True)
class Render:
    """A picture and all that is known about it. Masks and boxes are in pixels; parts that are absent have no entry.

    image uint8 [H, W, 3] RGB. parts uint8 [H, W]: 0 = no aeroplane, else 1 + index in PARTS. amodal[part] bool [H, W]: the
    pixels it touches, hidden ones too. visible[part]: share of its area that nothing hides (at least .6 for the slots and
    the roundel). boxes[part] = (x0, y0, x1, y1), end exclusive. keypoints[part] = (x, y), the centre of its nearest piece.
    """

    image: np.ndarray
    parts: np.ndarray
    amodal: dict[str, np.ndarray]
    visible: dict[str, float]
    boxes: dict[str, tuple[int, int, int, int]]
    keypoints: dict[str, tuple[float, float]]
    record: dict[str, Any] = field(repr=False)

    @property
    def mask(self) -> np.ndarray:
        """The visible aeroplane: bool [H, W]."""
        return self.parts > 0


def class_name(variants: Mapping[str, str | None]) -> str:
    """`round_underwing_plain_low`; a removed part is `none`."""
    return "_".join(variants[slot] or "none" for slot in SLOTS)


def get_preset(name: str) -> Preset:
    """`f16`, `f81`, `f8`, `pair-<slot>` or `shortcut-<rate>`. Raises ValueError for any other name."""
    if name == "f16":
        return Preset(name, dict(_PAIRS))
    if name == "f81":
        return Preset(name, dict(SLOTS))
    if name == "f8":
        return Preset(name, _PAIRS | {"wingtip": ("plain",)})
    kind, _, value = name.partition("-")
    if kind == "pair" and value in SLOTS:
        return Preset(name, {slot: pair if slot == value else pair[:1] for slot, pair in _PAIRS.items()})
    if kind == "shortcut":
        try:
            rate = float(value)
        except ValueError:
            rate = -1.0
        if 0 <= rate <= 1:
            return Preset(name, dict(_PAIRS), rate)
    pairs = ", ".join(f"pair-{slot}" for slot in SLOTS)
    raise ValueError(
        f"unknown preset '{name}': choose f16, f81, f8, {pairs} or shortcut-<rate> with a rate from 0 to 1, e.g. shortcut-0.9"
    )


def _check(variants: Mapping[str, str | None], z: int, size: int, roundel_index: int | None) -> Variants:
    for slot, variant in variants.items():
        if slot not in SLOTS:
            raise ValueError(f"unknown slot '{slot}': choose from {', '.join(SLOTS)}")
        if variant is not None and variant not in SLOTS[slot]:
            raise ValueError(f"unknown {slot} '{variant}': choose from {', '.join(SLOTS[slot])}, or None to remove the part")
    if missing := [slot for slot in SLOTS if slot not in variants]:
        raise ValueError(f"variants lack {', '.join(missing)}: give every slot a variant, or None to remove the part")
    if not 0 <= z < MAX_Z:
        raise ValueError(f"z is {z}: it must be from 0 to 2**53 - 1")
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}: it must be at least {MIN_SIZE} pixels")
    if roundel_index is not None and not 0 <= roundel_index < len(ROUNDELS):
        raise ValueError(f"roundel is {roundel_index}: it must be from 0 to {len(ROUNDELS) - 1}, or None for no roundel")
    return {slot: variants[slot] for slot in SLOTS}


def _supersampling(size: int) -> int:
    return max(2, -(-384 // size))


def _pieces(variants: Variants, roundel_index: int | None) -> list[Piece]:
    """Far to near."""
    pieces = list(body_pieces()) + (roundel() if roundel_index is not None else [])
    for slot, variant in variants.items():
        pieces += slot_pieces(slot, variant)
    return sorted(pieces, key=lambda piece: piece.order)


def _pixels(points: np.ndarray, size: int) -> np.ndarray:
    """Frame coordinates [n, 2] -> integer pixels of a picture of that size."""
    return np.rint(points * size - 0.5).astype(np.int32)


def _outline_width(scene: Scene, size: int) -> int:
    return max(1, round(0.012 * size * float(np.linalg.norm(scene.camera[:, 0]))))


def _stamp(canvas: np.ndarray, corners: np.ndarray, width: int, fill: Any, line: Any) -> None:
    """Polygon with its outline; the same pixels whatever the canvas."""
    cv2.fillPoly(canvas, [corners], fill)
    if width:
        cv2.polylines(canvas, [corners], True, line, width)


def _amodal(scene: Scene, pieces: list[Piece], size: int, scale: int) -> dict[str, np.ndarray]:
    """Mask of each part at the drawing's resolution, 0 or 255: uint8 [size * scale, size * scale]."""
    big, width = size * scale, _outline_width(scene, size * scale)
    masks: dict[str, np.ndarray] = {}
    for piece in pieces:
        if piece.part not in masks:
            masks[piece.part] = np.zeros((big, big), np.uint8)
        corners = _pixels(scene.project(piece.part, piece.points, piece.anchor), big)
        _stamp(masks[piece.part], corners, width if piece.solid else 0, 255, 255)
    return masks


def _touched(mask: np.ndarray, size: int) -> np.ndarray:
    """The pixels [size, size] of which a mask at the drawing's resolution covers any part."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > 0


def _draw(scene: Scene, pieces: list[Piece], roundel_index: int | None, size: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [S, S, 3] and part index uint8 [S, S] with S = size * scale."""
    big, width = size * scale, _outline_width(scene, size * scale)
    colours = dict(scene.colours)
    if roundel_index is not None:
        colours["outer"], colours["inner"] = ROUNDELS[roundel_index]
        colours["rim"] = (245, 245, 245)
    canvas, labels = scene.background(big), np.zeros((big, big), np.uint8)
    for shape in scene.distractors:
        cv2.fillPoly(canvas, [_pixels(shape.outline(), big)], shape.colour)
    for piece in pieces:
        corners = _pixels(scene.project(piece.part, piece.points, piece.anchor), big)
        fill = tuple(min(255.0, c * piece.tone) for c in colours[piece.paint])
        edge = tuple(0.35 * c for c in fill)
        index = PARTS.index(piece.part) + 1
        _stamp(canvas, corners, width if piece.solid else 0, fill, edge)
        _stamp(labels, corners, width if piece.solid else 0, index, index)
    for shape in scene.occluders:
        corners = _pixels(shape.outline(), big)
        cv2.fillPoly(canvas, [corners], shape.colour)
        cv2.fillPoly(labels, [corners], 0)
    return canvas, labels


def _expose(image: np.ndarray, sensor: Sensor, z: int) -> np.ndarray:
    """Blur, noise of z, JPEG 4:4:4."""
    kernel = 2 * sensor.blur_radius + 1
    image = cv2.GaussianBlur(image, (kernel, kernel), sensor.blur)
    grain = np.rint(stream(z, "noise").standard_normal(image.shape, dtype=np.float32) * sensor.noise)
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, sensor.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    decoded = cv2.imdecode(cv2.imencode(".jpg", image, options)[1], cv2.IMREAD_COLOR)  # red and blue are swapped twice
    return np.asarray(decoded)


def _keypoint(scene: Scene, pieces: list[Piece], part: str, size: int) -> tuple[float, float]:
    nearest = max((p for p in pieces if p.part == part and p.solid), key=lambda p: (p.order, -len(p.points)))
    corners = scene.project(part, nearest.points, nearest.anchor) * size
    return round(float(corners[:, 0].mean()), 2), round(float(corners[:, 1].mean()), 2)


def render(
    variants: Mapping[str, str | None], z: int, size: int = 224, *, roundel: int | None = None, sensor: bool = True
) -> Render:
    """Draw one aeroplane.

    variants: slot -> variant, None removes the part. z: the seed of everything else. roundel: index of the shortcut's
    cockade, None for no roundel. sensor False leaves out blur, noise and JPEG. Raises ValueError for a slot, variant, z,
    size or roundel that does not exist.
    """
    chosen = _check(variants, z, size, roundel)
    scene, scale = draw_scene(z), _supersampling(size)
    pieces = _pieces(chosen, roundel)
    canvas, labels = _draw(scene, pieces, roundel, size, scale)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if sensor:
        image = _expose(image, scene.sensor, z)
    amodal, visible, boxes, keypoints = {}, {}, {}, {}
    masks = _amodal(scene, pieces, size, scale)
    for part in (p for p in PARTS if p in masks):
        mask = masks[part]
        seen = np.count_nonzero(labels == PARTS.index(part) + 1)
        amodal[part] = touched = _touched(mask, size)
        visible[part] = round(seen / cv2.countNonZero(mask), 4)
        x, y, w, h = cv2.boundingRect(touched.astype(np.uint8))
        boxes[part] = (x, y, x + w, y + h)
        keypoints[part] = _keypoint(scene, pieces, part, size)
    record = {
        "class": class_name(chosen),
        "variants": chosen,
        "z": z,
        "size": size,
        "roundel": roundel,
        "sensor": sensor,
        "version": VERSION,
    }
    record |= {
        "visible": visible,
        "boxes": {k: list(v) for k, v in boxes.items()},
        "keypoints": {k: list(v) for k, v in keypoints.items()},
    }
    parts = np.ascontiguousarray(labels[scale // 2 :: scale, scale // 2 :: scale])
    return Render(image, parts, amodal, visible, boxes, keypoints, record)


def counterfactual(record: Mapping[str, Any], **swap: Any) -> Render:
    """Render a record again with slots swapped, or removed by None: `counterfactual(record, nose="drooped", tail=None)`.

    `roundel=` and `size=` can be swapped too; without a swap the picture is reproduced. Raises ValueError for a record of
    another renderer version and for what `render` refuses.
    """
    if record.get("version") != VERSION:
        raise ValueError(
            f"record has renderer version {record.get('version')}, this renderer is version {VERSION}: make the data set again"
        )
    size, mark = swap.pop("size", record["size"]), swap.pop("roundel", record.get("roundel"))
    return render({**record["variants"], **swap}, record["z"], size, roundel=mark, sensor=record.get("sensor", True))


def pair_evidence(record: Mapping[str, Any], other_variants: Mapping[str, str | None]) -> np.ndarray:
    """Where two classes of one scene differ: bool [H, W], union of the differing slots' amodal masks in both renders.

    For `plain` against `winglet` that is the place where the winglet is not. `other_variants` may name only the slots that
    change. Draws masks only. Raises ValueError like `counterfactual`.
    """
    if record.get("version") != VERSION:
        raise ValueError(
            f"record has renderer version {record.get('version')}, this renderer is version {VERSION}: make the data set again"
        )
    size, z = record["size"], record["z"]
    first = _check(record["variants"], z, size, None)
    second = _check({**first, **other_variants}, z, size, None)
    scene, scale = draw_scene(z), _supersampling(size)
    evidence = np.zeros((size, size), dtype=bool)
    for slot in SLOTS:
        if first[slot] != second[slot]:
            pieces = [*slot_pieces(slot, first[slot]), *slot_pieces(slot, second[slot])]
            for mask in _amodal(scene, pieces, size, scale).values():
                evidence |= _touched(mask, size)
    return evidence


def footprint(evidence: np.ndarray, z: int) -> np.ndarray:
    """How far a change inside `evidence` [H, W] can reach in the final picture: bool [H, W].

    It is grown by the radius of the blur of z, then to whole JPEG blocks.
    """
    radius = draw_scene(z).sensor.blur_radius
    grown = cv2.dilate(evidence.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    height, width = grown.shape
    padded = np.pad(grown, ((0, -height % JPEG_BLOCK), (0, -width % JPEG_BLOCK)))
    blocks = padded.reshape(padded.shape[0] // JPEG_BLOCK, JPEG_BLOCK, -1, JPEG_BLOCK).max(axis=(1, 3)) > 0
    return np.repeat(np.repeat(blocks, JPEG_BLOCK, axis=0), JPEG_BLOCK, axis=1)[:height, :width]
