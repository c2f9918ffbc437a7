"""What is measured (cases and implementations) and what came out (series of timings)."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field

import numpy as np

ICN = "ICN"
MODES = ("evaluation", "training")
# Further variants of ICN's evaluation, measured in the same process and in turn with it.
WITH_MAPS, BACKBONE_ONLY = "evaluation with maps", "backbone only"
DEFAULT_SHAPES = ((800, 800, 1), (448, 448, 8))  # height, width, batch size
SCALE_CLASSES, SCALE_SIZES = (10, 100, 1000, 10000), (224, 320, 448, 640, 800, 1120)
SCALE_SIZE, SCALE_COUNT = 448, 100  # pixels and classes that are fixed while the other varies


@dataclass(frozen=True)
class Case:
    """A point of the grid: `mode` is one of `MODES`, the image is `height` x `width` pixels."""

    mode: str
    height: int
    width: int
    batch_size: int
    classes: int

    def __str__(self) -> str:
        return f"{self.mode} {self.size} b{self.batch_size}, {self.classes} classes"

    @property
    def size(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Implementation:
    """A model with its evaluation and training step: ICN, or any folder with INTR's `models.build_model(args)`."""

    name: str  # as printed in the tables
    folder: str | None = None  # of a peer; None for ICN
    precision: str = "fp32"  # of ICN; peers run in fp32
    compiled: bool = False  # whether ICN's model goes through torch.compile


@dataclass
class Series:
    """Repeated measurements of one variant of one implementation in one case."""

    case: Case
    implementation: Implementation
    variant: str  # the mode, `WITH_MAPS` or `BACKBONE_ONLY`
    seconds: list[float] = field(default_factory=list)  # per step, one number a round
    contention: list[float] = field(default_factory=list)  # share of the processors used by other processes, one a round
    peak_memory: int | None = None  # bytes, the largest of all rounds, above what the imports need; None if unknown
    compile_seconds: float | None = None  # the first step minus a later one, with torch.compile
    shares: dict[str, float] = field(default_factory=dict)  # seconds of one step by part of the network
    failed: str = ""  # why there are no numbers, in one line

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        return self.case.batch_size / self.median

    def as_json(self) -> dict[str, object]:
        """Return every number of the series, for the JSON file."""
        who = self.implementation
        row = {"implementation": who.name, "variant": self.variant, **vars(self.case)}
        row |= {"precision": who.precision, "compile": who.compiled}
        if self.failed:
            return {**row, "failed": self.failed}
        low, _, high = quartiles(self.seconds)
        seconds = {"median": self.median, "q1": low, "q3": high, "all": self.seconds}
        row |= {"seconds": seconds, "contention": self.contention, "img_per_s": self.images_per_second}
        row |= {"peak_memory_bytes": self.peak_memory, "compile_seconds": self.compile_seconds}
        return {**row, "shares_seconds": self.shares}


def quartiles(values: list[float]) -> list[float]:
    """Return the first quartile, the median and the third quartile."""
    return np.percentile(values, [25, 50, 75]).tolist()


def grid_cases(args: argparse.Namespace) -> list[Case]:
    """Return every combination of the flags; without sizes, `DEFAULT_SHAPES`."""
    shapes: list[tuple[int, int, int]] = list(DEFAULT_SHAPES)
    if args.image_size or args.batch_size:
        shapes = [(*parse_size(s), b) for s in args.image_size or ["800"] for b in args.batch_size or [1]]
    modes = [mode for mode in MODES if mode in args.modes]
    return [Case(mode, *shape, classes) for mode in modes for shape in shapes for classes in args.classes or [100]]


def scale_cases(args: argparse.Namespace) -> dict[str, list[Case]]:
    """Return evaluations against the number of `classes`, and against the `size`."""
    batch = (args.batch_size or [1])[0]
    sizes = [parse_size(text) for text in args.image_size or map(str, SCALE_SIZES)]
    by_classes = [Case("evaluation", SCALE_SIZE, SCALE_SIZE, batch, classes) for classes in args.classes or SCALE_CLASSES]
    return {"classes": by_classes, "size": [Case("evaluation", *shape, batch, SCALE_COUNT) for shape in sizes]}


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width from `448` or `800x1066`. ValueError for anything else, or below 32 pixels."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) >= 32 for part in parts):
        raise ValueError(f"--image_size {text}: give pixels, as in 448 or 800x1066 (height x width), at least 32")
    return int(parts[0]), int(parts[-1])
