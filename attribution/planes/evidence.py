"""Factorial planes as ground truth: the masks that a map is compared with.

A mask is drawn again from the record's seed z, at the size that is asked for: the eval transforms resize a (square) picture
as a whole, so that a mask of the model's input size lies where the model sees its part. Cost on one core at 128-224 pixels:
2-5 ms for the evidence of a pair, 7-20 ms for a render with all its masks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datasets.planes.annotations import Record
from datasets.planes.presets import Preset, Variants
from datasets.planes.renderer import difference_mask, render


def sibling(preset: Preset, record: Record, slot: str) -> Variants:
    """The class that differs from the record's in `slot` alone. Where there are several, the seed of the picture chooses."""
    own = record["variants"][slot]
    others = [variant for variant in preset.slots[slot] if variant != own]
    # z // 3: the lowest digit to base 3 tells the split.
    return {**record["variants"], slot: others[record["z"] // 3 % len(others)]}


def evidence(record: Record, other: Mapping[str, str | None], size: int | None = None) -> np.ndarray:
    """E(c, d) of a picture of class c and another class d: the union of the differing slots' amodal masks in both renders.

    Args:
        record: of the picture.
        other: the variants of d; those that are left out are c's.
        size: side in pixels; None for the picture's own.

    Returns:
        bool `[size, size]`.
    """
    return difference_mask({**record, "size": size or record["size"]}, other)


def part_masks(record: Record, size: int | None = None) -> dict[str, np.ndarray]:
    """Amodal masks bool `[size, size]` of the parts of a picture, fuselage and wings included; an absent part has none."""
    drawn = render(record["variants"], record["z"], size or record["size"], roundel=record.get("roundel"), sensor=False)
    return drawn.amodal
