"""The image sizes of a training: INTR's scales, and growing pictures. Imports no torch."""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from typing import NamedTuple

MIN_SIDE, MAX_SIDE = 32, 8192  # pixels; the smaller is one cell of a stride-32 feature map
# INTR's numbers (DETR's recipe) are for a short side of 800; other image sizes scale them.
REFERENCE_SIZE, LONGEST = 800, 1333
SCALES = (480, 544, 608, 672, 736, 800)  # every other of INTR's 11: few shapes keep cudnn and compiled code warm
FORM = "size:share,...,size, as in 160:0.4,224:0.7,448 (each share is the part of the training at which its size ends)"


class Stage(NamedTuple):
    """An image size in pixels, and the share of the training at which it ends."""

    size: int
    end: float


class SizeSchedule:
    """The image sizes of a training: small ones first, which are fast (as in Howard 2018, progressive resizing).

    A pure function of the time, so that a resumed run continues where it was.

    Args:
        text: `size:share,...,size`; empty: `image_size` throughout.
        image_size: in pixels, the last size.
        epochs: of the whole training.

    Raises:
        ValueError: `text` has another form, its sizes or shares do not grow, or it does not end at `image_size`.
    """

    def __init__(self, text: str, image_size: int, epochs: int) -> None:
        self.stages = parse_stages(text) if text else [Stage(image_size, 1.0)]
        self.epochs = epochs
        if self.stages[-1].size != image_size:
            raise ValueError(
                f"--size_schedule {text} ends at {self.stages[-1].size} pixels, --image_size is {image_size}: the last size is "
                "that of evaluation; give both the same"
            )

    def __str__(self) -> str:
        *growing, last = self.stages
        parts = [f"{stage.size} pixels up to epoch {stage.end * self.epochs:g}" for stage in growing]
        return f"{', '.join(parts)}, then {last.size}"

    def at(self, epochs: float) -> int:
        """Return the image size after so many epochs."""
        share = epochs / self.epochs + 1e-9  # rounding errors of a share do not move it to the next batch
        return next((stage.size for stage in self.stages if share < stage.end), self.stages[-1].size)

    def choices(self, epochs: float, square: bool) -> list[int] | list[tuple[int, int]]:
        """Return the scales of which one is drawn for a batch, after so many epochs, each with its image size unless `square`."""
        size = self.at(epochs)
        return [size] if square else [(scale, size) for scale in training_scales(size)]

    def smallest(self, square: bool) -> list[int]:
        """Return the side in pixels of the smallest square that a training has at each of the sizes."""
        return [stage.size if square else training_scales(stage.size)[0] for stage in self.stages]

    def cost(self, start: float, end: float) -> float:
        """Return the computation from one time to another, both in epochs, in units of an epoch at the last size.

        It grows with the number of pixels.
        """
        total, begin = 0.0, 0.0
        for stage in self.stages:
            until = stage.end * self.epochs if stage is not self.stages[-1] else math.inf
            total += max(0.0, min(end, until) - max(start, begin)) * (stage.size / self.stages[-1].size) ** 2
            begin = until
        return total


def training_scales(image_size: int) -> list[int]:
    """Return the short sides of INTR's multi-scale training, in pixels: one is drawn per batch."""
    return sorted({max(MIN_SIDE, scaled(scale, image_size)) for scale in SCALES})


def scaled(pixels: int, image_size: int) -> int:
    """Return what `pixels` of INTR's are at another image size than its."""
    return round(pixels * image_size / REFERENCE_SIZE)


def parse_stages(text: str) -> list[Stage]:
    """Parse `size:share,...,size`; a ValueError says what is wrong."""
    stages = []
    words = text.split(",")
    for number, word in enumerate(words, 1):
        size, colon, share = word.partition(":")
        try:
            stages.append(Stage(int(size), float(share) if colon or number < len(words) else 1.0))
        except ValueError:
            raise ValueError(f"{text!r} has {word!r}; expected {FORM}") from None
    if ":" in words[-1]:
        raise ValueError(f"{text!r} has a share behind its last size, which lasts to the end; expected {FORM}")
    if wrong := [str(stage.size) for stage in stages if not MIN_SIDE <= stage.size <= MAX_SIDE]:
        raise ValueError(f"{text!r} has a size of {wrong[0]} pixels; allowed are {MIN_SIDE} to {MAX_SIDE}")
    if wrong := [f"{after.size} after {before.size}" for before, after in pairwise(stages) if before.size >= after.size]:
        raise ValueError(f"{text!r} has a size of {wrong[0]} pixels; sizes must grow")
    if not all(before < after for before, after in pairwise([0.0, *(stage.end for stage in stages)])):
        raise ValueError(f"{text!r} has shares that are not above 0, growing and below 1; expected {FORM}")
    return stages


def size_schedule(text: str) -> str:
    """Check the value of --size_schedule, as `type` of the flag; empty: none."""
    try:
        if text:
            parse_stages(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
