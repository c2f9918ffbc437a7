"""Pictures of two aeroplanes of different classes, with the mask of each.

<root>/<stem>.png       the picture
<root>/<stem>.A.png     the visible pixels of the first aeroplane, 0 or 255; <stem>.B.png of the second
<root>/pairs.json       [{"file", "A", "B", ...}], A and B the classes
<root>/settings.json    how it was made

The classes differ in every slot that varies, so that no part of one aeroplane is evidence for the class of the other. Each has a
scene of its own (pose, colours, occluders) in a square of half to two thirds of the side of the picture; the sky, the
distractors and the sensor are those of a third. They do not touch. Which of the two is A does not depend on the place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.planes.drawing import apply_sensor, to_pixels
from datasets.planes.nuisance import draw_scene
from datasets.planes.parts import SLOTS
from datasets.planes.presets import Preset, Variants, class_name
from datasets.planes.renderer import MIN_SIZE, VERSION, Render, difference_mask, render
from datasets.planes.scene import Scene, stream
from util.atomic import new_folder

SUPERSAMPLING = 3
SHARES = (0.5, 0.66)  # side of the square of an aeroplane, of the picture's
GAP = 0.02  # free between the two, of the picture's side
TRIES = 200


class PairRender(NamedTuple):
    """A picture uint8 [S, S, 3] RGB, the visible pixels of each aeroplane bool [2, S, S], and what was drawn."""

    image: np.ndarray
    masks: np.ndarray
    record: dict[str, Any]


class Placed(NamedTuple):
    """One aeroplane of a pair: its square picture uint8 [s, s, 3], its visible pixels bool [s, s], and its corner (x, y)."""

    image: np.ndarray
    visible: np.ndarray
    scene: Scene
    x: int
    y: int


def opposite(preset: Preset, variants: Variants, rng: np.random.Generator) -> Variants:
    """Draw a class that differs in every slot that varies."""
    other: Variants = {}
    for slot, choices in preset.slots.items():
        others = [choice for choice in choices if choice != variants[slot]] or list(choices)
        other[slot] = others[int(rng.integers(len(others)))]
    return other


def render_pair(first: Variants, second: Variants, z: int, size: int = 224) -> PairRender:
    """Render two aeroplanes into one scene of seed z.

    Raises:
        ValueError: as `render`, or the two are of one class.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}: it must be at least {MIN_SIZE} pixels")
    if class_name(first) == class_name(second):
        raise ValueError(f"both aeroplanes are {class_name(first)}: give two classes")
    rng, big = stream(z, "pose"), size * SUPERSAMPLING
    sky = draw_scene(z)
    canvas = sky.background(big)
    for shape in sky.distractors:
        cv2.fillPoly(canvas, [to_pixels(shape.outline(), big)], shape.colour)
    drawn = _place_both((first, second), rng, big)
    owner = np.zeros((big, big), np.uint8)
    for index, plane in enumerate(drawn, start=1):
        side = len(plane.image)
        window = slice(plane.y, plane.y + side), slice(plane.x, plane.x + side)
        canvas[window][plane.visible] = plane.image[plane.visible]
        owner[window][plane.visible] = index
    for plane in drawn:  # after both: an occluder may reach over the neighbour
        for shape in plane.scene.occluders:
            corners = np.rint(shape.outline() * len(plane.image) - 0.5 + (plane.x, plane.y)).astype(np.int32)
            cv2.fillPoly(canvas, [corners], shape.colour)
            cv2.fillPoly(owner, [corners], 0)
    image = apply_sensor(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), sky.sensor, z)
    centres = owner[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]
    record = {"A": class_name(first), "B": class_name(second), "z": z, "zs": [plane.scene.z for plane in drawn]}
    return PairRender(image, np.stack([centres == 1, centres == 2]), record | {"size": size, "version": VERSION})


def _place_both(variants: tuple[Variants, Variants], rng: np.random.Generator, big: int) -> list[Placed]:
    """Place two aeroplanes in a square of side `big` such that they do not touch.

    They would not touch as any other class either: the place does not depend on the class.
    """
    gap = max(1, round(GAP * big))
    near = np.ones((2 * gap + 1, 2 * gap + 1), np.uint8)
    while True:
        drawn = []
        for chosen in variants:
            z, side = int(rng.integers(2**48)), round(rng.uniform(*SHARES) * big)
            aeroplane = render(chosen, z, side, sensor=False)
            drawn.append((aeroplane, _all_variants_mask(aeroplane), draw_scene(z)))
        for _ in range(TRIES):
            corners = [rng.integers(0, big - len(whole) + 1, 2) for _, whole, _ in drawn]
            taken = [np.zeros((big, big), np.uint8) for _ in drawn]
            for (_, whole, _), (x, y), plate in zip(drawn, corners, taken, strict=True):
                plate[y : y + len(whole), x : x + len(whole)] = whole
            if not cv2.dilate(taken[0], near)[taken[1] > 0].any():
                return [
                    Placed(aeroplane.image, aeroplane.mask, scene, int(x), int(y))
                    for (aeroplane, _, scene), (x, y) in zip(drawn, corners, strict=True)
                ]


def _all_variants_mask(aeroplane: Render) -> np.ndarray:
    """Return the pixels of this aeroplane in all variants of all slots: bool [S, S]."""
    masks = list(aeroplane.amodal.values())
    for i in range(max(map(len, SLOTS.values()))):
        masks.append(difference_mask(aeroplane.record, {slot: variants[i % len(variants)] for slot, variants in SLOTS.items()}))
    return np.logical_or.reduce(masks)


def export_pairs(
    root: Path, preset: Preset, count: int, size: int, seed: int = 0, progress: Callable[[], None] | None = None
) -> bool:
    """Write `count` pictures, all or none; return False when they exist, made with the same settings.

    Args:
        root: their folder.
        size: side of a picture in pixels.
        seed: decides every picture.
        progress: called after every picture.

    Raises:
        ValueError: `root` holds something else, or the preset has a roundel, which would be evidence for both classes.
        OSError: a file cannot be written, or `root` appeared in the meantime.
    """
    if preset.rate is not None:
        raise ValueError(f"preset '{preset.name}' has a roundel: two-object scenes are made of f16, f81, f8 or pair-<slot>")
    if count < 1:
        raise ValueError(f"pairs is {count}: it must be at least 1")
    settings = {"preset": preset.name, "seed": seed, "size": size, "count": count, "version": VERSION}
    if root.exists() and any(root.iterdir()):
        _check_same_settings(root, settings)
        return False
    rng = np.random.default_rng([seed, 3])  # 0, 1, 2 are train, val, test
    classes = list(preset.classes.values())
    with new_folder(root) as draft:
        entries = []
        for _ in range(count):
            first = classes[int(rng.integers(len(classes)))]
            drawn = render_pair(first, opposite(preset, first, rng), int(rng.integers(2**48)), size)
            stem = f"{drawn.record['z']:012x}"
            pictures = {"": drawn.image[..., ::-1], ".A": drawn.masks[0] * np.uint8(255), ".B": drawn.masks[1] * np.uint8(255)}
            for suffix, picture in pictures.items():
                (draft / f"{stem}{suffix}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            entries.append({"file": f"{stem}.png"} | drawn.record)
            if progress:
                progress()
        (draft / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
        (draft / "pairs.json").write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    return True


def _check_same_settings(root: Path, settings: dict[str, Any]) -> None:
    try:
        existing = json.loads((root / "settings.json").read_text())
    except (OSError, ValueError):
        existing = None
    if existing != settings:
        raise ValueError(f"{root} exists and holds something else than these pairs: give another --name, or remove it first")
