"""What is said of a run: the tables and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.benchmark.cases import Series
from tools.benchmark.goals import loading_outcomes, outcomes
from tools.benchmark.machine import describe
from tools.benchmark.rounds import QUIET
from tools.benchmark.tables import data_table, goal_table, scale_table, share_table, speed_table

NOTES = """
- ICN is given uint8 images on the CPU, as its loader makes them: their way to the device and their normalisation count. The
  others are given images that are normalised already, as their loaders make them; their way to the device counts.
- Evaluation is `engine.evaluate` on the model of `models.for_inference`; the training step is `engine.Trainer.step`. The
  others: forward without gradients; forward, cross-entropy, backward, clipping at 0.1, AdamW.
- `bare backbone` is the backbone of the very model that is evaluated, on images that lie ready: what no head can be faster than.
- Peak memory is what a process holds above what it held before the model was built.
- Weights and images are random; every number is the median over the rounds, in which all take turns.
""".strip()


def heading(machine: Mapping[str, Any], rounds: int, found: Sequence[Series]) -> str:
    """One line: on what, how often, how quiet it was."""
    shares = [share for one in found for share in one.disturbance]
    disturbed = f"; other processes had {max(shares):.0%} of the processors at worst" if shares and max(shares) > QUIET else ""
    return f"{describe(machine)}; {rounds} rounds{disturbed}."


def grid_report(found: Sequence[Series], loading: Sequence[Mapping[str, Any]], device: str) -> tuple[dict[str, Any], str]:
    """Speed, goals, shares and loading: what goes into the JSON file, and the tables."""
    answers = outcomes(found, device) + loading_outcomes(loading)
    tables = {
        "": speed_table(found) if found else "",
        "Goals:\n\n": goal_table(answers),
        "Where the time of a step goes:\n\n": share_table(found),
        "From files to normalised batches:\n\n": data_table(loading, found) if loading else "",
    }
    numbers = {
        "results": [one.as_json() for one in found],
        "loading": list(loading),
        "goals": [answer.as_json() for answer in answers],
    }
    return numbers, "\n\n".join(title + table for title, table in tables.items() if table)


def scale_report(by_classes: Sequence[Series], by_size: Sequence[Series]) -> tuple[dict[str, Any], str]:
    """Evaluation against classes and against pixels: what goes into the JSON file, and the tables."""
    parts = []
    for found, axis, title in (
        (by_classes, "classes", "classes, at {size}"),
        (by_size, "size", "pixels, with {classes} classes"),
    ):
        if found:
            case = found[0].case
            held = title.format(size=case.size, classes=case.classes)
            parts.append(f"Evaluation against {held}, batch {case.batch_size}:\n\n{scale_table(found, axis)}")
    numbers = {"by_classes": [one.as_json() for one in by_classes], "by_size": [one.as_json() for one in by_size]}
    return numbers, "\n\n".join(parts)
