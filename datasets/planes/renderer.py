"""Factorial planes: rendered aeroplanes whose ground truth of attribution is known to the pixel.

Aeroplanes are drawn from parts. A class is one combination of part variants, and all combinations are classes: no smaller
set of parts identifies a class, and every class has siblings that differ in exactly one slot. Everything else comes from a
seed z that classes do not touch: the same z with other variants is the same scene, the counterfactual.

What "identical outside the ground truth" means, exactly. Let E be `difference_mask` of two renders of one z.
- `render(..., sensor=False)`: the two pictures are equal in every pixel outside E.
- The final picture has been blurred by a finite kernel, given noise of z, and compressed as JPEG without chroma
  subsampling, whose 8 x 8 blocks are independent. The two pictures are equal in every pixel outside the footprint of E: E
  grown by the blur's radius (1-2 px), then to whole JPEG blocks. Between E and its footprint they differ by what a blur
  and a JPEG do there.
Reproduction is byte for byte with the same numpy and OpenCV; another JPEG library may move pixels by a grey level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from datasets.planes.parts import PARTS, SLOTS, Piece, body_pieces, roundel_pieces, slot_pieces
from datasets.planes.presets import ROUNDELS, Variants, class_name
from datasets.planes.scene import Scene, draw_scene, stream
from datasets.rendering import apply_sensor, fill_shapes, to_pixels

VERSION, MIN_SIZE = 1, 48
MAX_Z = 2**53  # a seed survives JSON readers that know only doubles


@dataclass(frozen=True)
class Render:
    """A picture and its ground truth, in pixels; parts that are absent have no entry.

    image: uint8 [H, W, 3] RGB.
    parts: uint8 [H, W], 0 = no aeroplane, else 1 + index in PARTS.
    amodal: part -> bool [H, W], the pixels that it touches, hidden ones too.
    record: what `counterfactual` needs to draw the picture again, and part -> `visible`, the share of its area that nothing
        hides (at least .6 for the slots and the roundel); `boxes`, [x0, y0, x1, y1], end exclusive; `keypoints`, [x, y], the
        centre of its nearest piece.
    """

    image: np.ndarray
    parts: np.ndarray
    amodal: dict[str, np.ndarray]
    record: dict[str, Any] = field(repr=False)

    @property
    def mask(self) -> np.ndarray:
        """The visible aeroplane: bool [H, W]."""
        return self.parts > 0


def render(
    variants: Mapping[str, str | None], z: int, size: int = 224, *, roundel: int | None = None, sensor: bool = True
) -> Render:
    """Render one aeroplane.

    Args:
        variants: slot -> variant; None removes the part.
        z, size: the seed of everything else, and the side of the picture in pixels.
        roundel: index of the shortcut's cockade; None for no roundel.
        sensor: apply blur, noise and JPEG.

    Raises:
        ValueError: a slot, variant, z, size or roundel that does not exist.
    """
    variants = _check(variants, z, size, roundel)
    scene, scale, pieces = draw_scene(z), _supersampling(size), _pieces(variants, roundel)
    canvas, labels = _draw(scene, pieces, roundel, size * scale)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if sensor:
        image = apply_sensor(image, scene.sensor, stream(z, "noise"))
    record = {"class": class_name(variants), "variants": variants, "z": z, "size": size, "roundel": roundel, "sensor": sensor}
    amodal, visible, boxes, keypoints = {}, {}, {}, {}
    masks = _amodal_masks(scene, pieces, size * scale)
    for index, part in enumerate(PARTS, start=1):
        if part not in masks:
            continue
        amodal[part] = touched = _touched_pixels(masks[part], size)
        visible[part] = round(np.count_nonzero(labels == index) / cv2.countNonZero(masks[part]), 4)
        x, y, w, h = cv2.boundingRect(touched.astype(np.uint8))
        boxes[part] = [x, y, x + w, y + h]
        keypoints[part] = _keypoint(scene, pieces, part, size)
    parts = np.ascontiguousarray(labels[scale // 2 :: scale, scale // 2 :: scale])
    record |= {"version": VERSION, "visible": visible, "boxes": boxes, "keypoints": keypoints}
    return Render(image, parts, amodal, record)


def counterfactual(record: Mapping[str, Any], **swap: Any) -> Render:
    """Render a record again with slots swapped, or removed by None: `counterfactual(record, nose="drooped", tail=None)`.

    `roundel=` and `size=` can be swapped too; without a swap the picture is reproduced. Raises a ValueError as `render`, and for
    a record of another renderer version.
    """
    _check_version(record)
    size, roundel = swap.pop("size", record["size"]), swap.pop("roundel", record.get("roundel"))
    return render({**record["variants"], **swap}, record["z"], size, roundel=roundel, sensor=record.get("sensor", True))


def difference_mask(record: Mapping[str, Any], other_variants: Mapping[str, str | None]) -> np.ndarray:
    """Return where two classes of one scene differ: bool [H, W], union of the differing slots' amodal masks in both renders.

    For `plain` against `winglet` that is the place of the absent winglet. Draws masks only.

    `record` is that of a picture of the first class; `other_variants` may name only the slots that change. Raises a ValueError as
    `counterfactual`.
    """
    _check_version(record)
    size, z = record["size"], record["z"]
    first = _check(record["variants"], z, size, None)
    second = _check({**first, **other_variants}, z, size, None)
    scene, big = draw_scene(z), size * _supersampling(size)
    difference = np.zeros((size, size), dtype=bool)
    for slot in SLOTS:
        if first[slot] != second[slot]:
            pieces = [*slot_pieces(slot, first[slot]), *slot_pieces(slot, second[slot])]
            for mask in _amodal_masks(scene, pieces, big).values():
                difference |= _touched_pixels(mask, size)
    return difference


def _check_version(record: Mapping[str, Any]) -> None:
    if (version := record.get("version")) != VERSION:
        here = f"record has renderer version {version}, this renderer is version {VERSION}"
        raise ValueError(f"{here}: make the data set again")


def _check(variants: Mapping[str, str | None], z: int, size: int, roundel: int | None) -> Variants:
    """Return the variants in the order of the slots, or raise a ValueError for a value that is not allowed."""
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
    if roundel is not None and not 0 <= roundel < len(ROUNDELS):
        raise ValueError(f"roundel is {roundel}: it must be from 0 to {len(ROUNDELS) - 1}, or None for no roundel")
    return {slot: variants[slot] for slot in SLOTS}


def _supersampling(size: int) -> int:
    return max(2, -(-384 // size))


def _pieces(variants: Variants, roundel: int | None) -> list[Piece]:
    """Return the pieces of an aeroplane in painting order, far to near."""
    pieces = [*body_pieces(), *(roundel_pieces() if roundel is not None else ())]
    for slot, variant in variants.items():
        pieces += slot_pieces(slot, variant)
    return sorted(pieces, key=lambda piece: piece.order)


def _draw(scene: Scene, pieces: list[Piece], roundel: int | None, big: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw background, pieces and occluders: picture uint8 [big, big, 3] and part index uint8 [big, big]."""
    colours = dict(scene.colours)
    if roundel is not None:
        colours["outer"], colours["inner"] = ROUNDELS[roundel]
        colours["rim"] = (245, 245, 245)
    canvas, labels = scene.background(big), np.zeros((big, big), np.uint8)
    fill_shapes(scene.distractors, canvas)
    for piece in pieces:
        fill = tuple(min(255.0, c * piece.tone) for c in colours[piece.paint])
        _stamp(canvas, scene, piece, fill, tuple(0.35 * c for c in fill))
        index = PARTS.index(piece.part) + 1
        _stamp(labels, scene, piece, index, index)
    fill_shapes(scene.occluders, canvas, labels)
    return canvas, labels


def _amodal_masks(scene: Scene, pieces: list[Piece], big: int) -> dict[str, np.ndarray]:
    """Draw the mask of each part, hidden pixels included: uint8 [big, big], 0 or 255."""
    masks: dict[str, np.ndarray] = {}
    for piece in pieces:
        _stamp(masks.setdefault(piece.part, np.zeros((big, big), np.uint8)), scene, piece, 255, 255)
    return masks


def _stamp(canvas: np.ndarray, scene: Scene, piece: Piece, fill: Any, line: Any) -> None:
    """Fill a piece and draw its outline, in place; the pixels do not depend on the kind of canvas."""
    big = len(canvas)
    corners = to_pixels(scene.project(piece.part, piece.points, piece.anchor) * big)
    cv2.fillPoly(canvas, [corners], fill)
    if piece.solid:
        width = max(1, round(0.012 * big * float(np.linalg.norm(scene.camera[:, 0]))))
        cv2.polylines(canvas, [corners], True, line, width)


def _touched_pixels(mask: np.ndarray, size: int) -> np.ndarray:
    """Return the pixels that a supersampled mask covers at least in part: bool [size, size]."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > 0


def _keypoint(scene: Scene, pieces: list[Piece], part: str, size: int) -> list[float]:
    """Return the centre [x, y] of the nearest solid piece of a part, in pixels."""
    nearest = max((p for p in pieces if p.part == part and p.solid), key=lambda p: (p.order, -len(p.points)))
    corners = scene.project(part, nearest.points, nearest.anchor) * size
    return [round(float(corners[:, axis].mean()), 2) for axis in (0, 1)]
