"""What the engine sets out to reach, against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmark.cases import FLOOR, WITH_MAPS, Case, Ratio, Series, ratio

ICN = "ICN"
LARGE, SMALL, GPU = (800, 800, 1), (448, 448, 8), (800, 1066, 16)  # height, width, batch size


LOADING = 1.5  # times the images per second of a PIL pipeline

WORDS = {
    "baseline": "{mode} {precision}, times as fast as {versus}",
    "floor": "{mode} {precision}, time over the bare backbone's",
    "maps": "{mode} {precision} with the last layer's maps, time over that without",
    "memory": "{mode} {precision}, peak memory over that of {versus}",
}


@dataclass(frozen=True)
class Goal:
    """What is compared: `against` is a key of `WORDS`; `limit` is to be reached (`baseline`) or not to be passed."""

    mode: str
    precision: str
    against: str
    shape: tuple[int, int, int]
    limit: float
    classes: int = 100
    device: str = "cpu"

    @property
    def at_least(self) -> bool:
        return self.against == "baseline"


GOALS = (
    Goal("evaluation", "fp32", "baseline", LARGE, 2.0),
    Goal("evaluation", "fp32", "baseline", SMALL, 1.7),
    Goal("evaluation", "bf16", "baseline", LARGE, 4.5),
    Goal("evaluation", "bf16", "baseline", SMALL, 3.6),
    Goal("training", "fp32", "baseline", LARGE, 1.3),
    Goal("training", "fp32", "baseline", SMALL, 1.5),
    Goal("training", "bf16", "baseline", LARGE, 2.0),
    Goal("training", "bf16", "baseline", SMALL, 2.75),
    Goal("evaluation", "fp32", "floor", LARGE, 1.30),
    Goal("evaluation", "fp32", "floor", SMALL, 1.25),
    Goal("evaluation", "bf16", "floor", LARGE, 1.30),
    Goal("evaluation", "bf16", "floor", SMALL, 1.25),
    Goal("evaluation", "fp32", "maps", LARGE, 1.03),
    Goal("evaluation", "fp32", "maps", SMALL, 1.03),
    Goal("evaluation", "bf16", "maps", LARGE, 1.03),
    Goal("evaluation", "bf16", "maps", SMALL, 1.03),
    Goal("training", "fp32", "memory", SMALL, 0.5, classes=1000),
    Goal("evaluation", "bf16", "baseline", GPU, 4.0, device="cuda"),
    Goal("training", "bf16", "baseline", GPU, 3.0, device="cuda"),
)


@dataclass(frozen=True)
class Outcome:
    """A goal and what was measured, ready to be printed."""

    what: str
    case: str
    at_least: bool
    limit: float
    measured: Ratio

    @property
    def met(self) -> bool:
        return self.measured.value >= self.limit if self.at_least else self.measured.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "measured": vars(self.measured), "met": self.met}


def outcomes(found: Sequence[Series], device: str) -> list[Outcome]:
    """Every goal that the measured grid can answer, of ICN as it is and compiled; each against its own bare backbone."""
    answers = []
    for goal in GOALS:
        case = Case(goal.mode, *goal.shape, goal.classes)
        for compiled in (False, True):
            here = [
                one for one in found if one.case == case and (one.contestant.name != ICN or one.contestant.compiled == compiled)
            ]
            ours = next((one for one in here if one.variant == goal.mode and _is(one, goal.precision)), None)
            if goal.device != device or ours is None:
                continue
            for versus, measured in _compare(goal, ours, here):
                if measured is not None:
                    precision = goal.precision + " compiled" * compiled
                    what = WORDS[goal.against].format(mode=goal.mode, precision=precision, versus=versus)
                    where = f"{case.size} b{case.batch_size}, {case.classes} classes"
                    answers.append(Outcome(what, where, goal.at_least, goal.limit, measured))
    return answers


def loading_outcomes(rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """The rows of `tools.benchmark.data.measure` against the goal of loading."""
    return [
        Outcome(
            f"loading, {row['recipe']}, images/s over PIL's",
            f"{row['width']}x{row['height']} JPEG",
            True,
            LOADING,
            Ratio(row["ratio"], row["ratio"], row["ratio"]),
        )
        for row in rows
    ]


def _compare(goal: Goal, ours: Series, here: Sequence[Series]) -> list[tuple[str, Ratio | None]]:
    if goal.against in ("floor", "maps"):
        variant = FLOOR if goal.against == "floor" else WITH_MAPS
        other = next((one for one in here if one.variant == variant and _is(one, goal.precision)), None)
        if other is None:
            return []
        return [("", ratio(ours, other) if goal.against == "floor" else ratio(other, ours))]
    peers = [one for one in here if one.contestant.name != ICN]
    if goal.against == "memory":
        return [(peer.contestant.name, memory_ratio(ours, peer)) for peer in peers]
    return [(peer.contestant.name, ratio(peer, ours)) for peer in peers]


def memory_ratio(ours: Series, other: Series) -> Ratio | None:
    """Peak memory of `ours` over that of `other`; None without numbers."""
    if ours.failed or other.failed or not ours.peak_memory or not other.peak_memory:
        return None
    value = ours.peak_memory / other.peak_memory
    return Ratio(value, value, value)


def _is(series: Series, precision: str) -> bool:
    return series.contestant.name == ICN and series.contestant.precision == precision
