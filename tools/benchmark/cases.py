"""What is measured: a point of the grid, who runs it, and what came out."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

MODES = ("evaluation", "training")
# What a process can be asked to run; the last two belong to ICN's evaluation, which is alternated with them.
WITH_MAPS, FLOOR = "evaluation with maps", "bare backbone"


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
class Contestant:
    """Who runs a case: ICN, or any folder with INTR's `build_model(args)`.

    Attributes:
        name: as it stands in the tables.
        folder: of a peer; None for ICN.
        precision: of ICN; peers have `fp32`.
        compiled: whether ICN's model goes through torch.compile.
    """

    name: str
    folder: str | None = None
    precision: str = "fp32"
    compiled: bool = False


@dataclass
class Series:
    """One thing that was measured again and again.

    Attributes:
        variant: the mode, `WITH_MAPS` or `FLOOR`.
        seconds: per step, one number a round.
        disturbance: the share of the processors that other processes had, one number a round.
        peak_memory: bytes, the largest of all rounds, above what the process needs for its imports; None if unknown.
        compile_seconds: what the first step took longer than the second, with torch.compile.
        shares: seconds of one step by part of the network; empty where not measured.
        failed: why there are no numbers, in one line; empty when there are.
    """

    case: Case
    contestant: Contestant
    variant: str
    seconds: list[float] = field(default_factory=list)
    disturbance: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    compile_seconds: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    failed: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        return self.case.batch_size / self.median

    def as_json(self) -> dict[str, object]:
        """Every number of the series, for the JSON file."""
        line: dict[str, object] = {
            "contestant": self.contestant.name,
            "variant": self.variant,
            "mode": self.case.mode,
            "height": self.case.height,
            "width": self.case.width,
            "batch_size": self.case.batch_size,
            "classes": self.case.classes,
            "precision": self.contestant.precision,
            "compile": self.contestant.compiled,
        }
        if self.failed:
            return {**line, "failed": self.failed}
        low, high = quartiles(self.seconds)
        return {
            **line,
            "seconds": {"median": self.median, "q1": low, "q3": high, "all": self.seconds},
            "disturbance": self.disturbance,
            "img_per_s": self.images_per_second,
            "peak_memory_bytes": self.peak_memory,
            "compile_seconds": self.compile_seconds,
            "shares_seconds": self.shares,
        }


@dataclass(frozen=True)
class Ratio:
    """How many times one series takes the time of another: the ratio of medians, and the quartiles over the rounds."""

    value: float
    low: float
    high: float


def ratio(slow: Series, fast: Series) -> Ratio | None:
    """Time of `slow` over time of `fast`; the rounds alternate, so that each round gives a ratio. None without numbers."""
    if slow.failed or fast.failed or not slow.seconds or not fast.seconds:
        return None
    rounds = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return Ratio(slow.median / fast.median, *quartiles(rounds))


def quartiles(values: list[float]) -> tuple[float, float]:
    """First and third quartile; of a single value, twice that value."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
