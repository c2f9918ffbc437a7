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

from datasets.planes.dataset import write_image
from datasets.planes.parts import SLOTS
from datasets.planes.presets import Preset, Variants, class_name
from datasets.planes.renderer import VERSION, Render, difference_mask, render
from datasets.planes.scene import Scene, draw_scene, stream
from datasets.rendering import apply_sensor, fill_shapes
from util.atomic import new_folder

SUPERSAMPLING = 3
SHARES, GAP = (0.5, 0.66), 0.02  # side of the square of an aeroplane, and what is free between the two, of the picture's side
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
    """Render two aeroplanes into one scene of seed z; raises a ValueError as `render`, or if the two are of one class."""
    record = {"A": class_name(first), "B": class_name(second), "z": z}
    if record["A"] == record["B"]:
        raise ValueError(f"both aeroplanes are {record['A']}: give two classes")
    rng, big, sky = stream(z, "pose"), size * SUPERSAMPLING, draw_scene(z)
    canvas = sky.background(big)
    fill_shapes(sky.distractors, canvas)
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
    image = apply_sensor(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), sky.sensor, stream(z, "noise"))
    centres = owner[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]
    record |= {"zs": [plane.scene.z for plane in drawn], "size": size, "version": VERSION}
    return PairRender(image, np.stack([centres == 1, centres == 2]), record)


def _place_both(variants: tuple[Variants, Variants], rng: np.random.Generator, big: int) -> list[Placed]:
    """Place two aeroplanes in a square of side `big` such that they do not touch, nor would as any other classes."""
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
                placed = zip(drawn, corners, strict=True)
                return [Placed(plane.image, plane.mask, scene, int(x), int(y)) for (plane, _, scene), (x, y) in placed]


def _all_variants_mask(aeroplane: Render) -> np.ndarray:
    """Return the pixels of this aeroplane in all variants of all slots: bool [S, S]."""
    masks = list(aeroplane.amodal.values())
    for i in range(max(map(len, SLOTS.values()))):
        masks.append(difference_mask(aeroplane.record, {slot: variants[i % len(variants)] for slot, variants in SLOTS.items()}))
    return np.logical_or.reduce(masks)


def export_pairs(
    root: Path, preset: Preset, count: int, size: int, seed: int = 0, progress: Callable[[], None] | None = None
) -> bool:
    """Write `count` pictures of `size` pixels a side in the folder `root`, all or none.

    Return False when they exist, made with the same settings. `seed` decides every picture; `progress` is called after each.

    Raises:
        ValueError: `root` holds something else, or the preset has a roundel, which would be evidence for both classes.
        OSError: a file cannot be written, or `root` appeared in the meantime.
    """
    if preset.rate is not None:
        raise ValueError(f"preset '{preset.name}' has a roundel: two-object scenes are made of f16, f81, f8 or pair-<slot>")
    settings = {"preset": preset.name, "seed": seed, "size": size, "count": count, "version": VERSION}
    if root.exists() and any(root.iterdir()):
        try:
            existing = json.loads((root / "settings.json").read_text())
        except (OSError, ValueError):
            existing = None
        if existing != settings:
            what = f"{root} exists and holds something else than these pairs"
            raise ValueError(f"{what}: give another --name, or remove it first")
        return False
    rng = np.random.default_rng([seed, 3])  # 0, 1, 2 are train, val, test
    classes = list(preset.classes.values())
    with new_folder(root) as draft:
        entries = []
        for _ in range(count):
            first = classes[int(rng.integers(len(classes)))]
            drawn = render_pair(first, opposite(preset, first, rng), int(rng.integers(2**48)), size)
            stem = f"{drawn.record['z']:012x}"
            write_image(draft / f"{stem}.png", drawn.image[..., ::-1])
            for side, mask in zip("AB", drawn.masks, strict=True):
                write_image(draft / f"{stem}.{side}.png", mask * np.uint8(255))
            entries.append(json.dumps({"file": f"{stem}.png"} | drawn.record))
            if progress:
                progress()
        (draft / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
        (draft / "pairs.json").write_text("[\n" + ",\n".join(entries) + "\n]\n")
    return True
