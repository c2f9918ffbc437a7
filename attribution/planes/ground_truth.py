"""Ground truth of factorial planes: the masks of the parts of an image, and of where two classes differ.

A mask is rendered from the seed z of the image's record at the size that is wanted. The eval transforms resize a (square) image
as a whole, so that a mask of the model's input size lies where the model sees the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datasets.planes import render, renderer
from datasets.planes.annotations import PlanesSplit, Record
from datasets.planes.presets import Preset, Variants


class Comparison(NamedTuple):
    """The classes that an image is compared with.

    siblings: for each of the K slots the class that differs from the image's in this slot alone.
    groups: two disjoint halves of the slots, drawn from the seed of the image, as bool `[2][K]`.
    sharing: for each group the class that shares its slots with the image and differs in all others; empty where K is 1.
    """

    siblings: list[Variants]
    groups: list[list[bool]]
    sharing: list[Variants]


def compare(split: PlanesSplit, record: Record) -> Comparison:
    """Choose the classes that an image is compared with."""
    slots, own = split.slots, record["variants"]
    siblings = [sibling(split.preset, record, slot) for slot in slots]
    order = np.random.default_rng(record["z"]).permutation(len(slots))
    half = len(slots) // 2
    halves = [{slots[i] for i in order[:half]}, {slots[i] for i in order[half : 2 * half]}]
    sharing = []
    for group in halves if len(slots) > 1 else ():
        sharing.append(own | {slot: other[slot] for slot, other in zip(slots, siblings, strict=True) if slot not in group})
    return Comparison(siblings, [[slot in group for slot in slots] for group in halves], sharing)


def sibling(preset: Preset, record: Record, slot: str) -> Variants:
    """Return the class that differs from the record's in `slot` alone; of several, the seed of the image chooses."""
    own = record["variants"][slot]
    others = [variant for variant in preset.slots[slot] if variant != own]
    # z // 3: the lowest digit to base 3 is that of the split.
    return {**record["variants"], slot: others[record["z"] // 3 % len(others)]}


def difference_mask(record: Record, other: Mapping[str, str | None], size: int | None = None) -> np.ndarray:
    """Return where an image differs from another class, bool `[size, size]`: see `renderer.difference_mask`."""
    return renderer.difference_mask({**record, "size": size or record["size"]}, other)


def part_masks(record: Record, size: int | None = None) -> dict[str, np.ndarray]:
    """Return amodal masks bool `[size, size]` of the parts of an image, fuselage and wings included, without absent parts."""
    return render(record["variants"], record["z"], size or record["size"], roundel=record.get("roundel"), sensor=False).amodal
