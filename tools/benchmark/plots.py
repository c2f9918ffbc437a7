"""Cost against classes and against pixels, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.benchmark.cases import Series
from tools.benchmark.tables import GIB

MARKERS = "osD^v"


def plot_scale(by_classes: Sequence[Series], by_size: Sequence[Series], path: Path) -> None:
    """Write a PNG: seconds an image above, peak memory below, against classes on the left, against pixels on the right."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    for column, (found, title) in enumerate(((by_classes, "classes"), (by_size, "pixels"))):
        if not found:
            continue
        _draw(axes[0, column], found, column, "time")
        _draw(axes[1, column], found, column, "memory")
        axes[0, column].set_title(_held(found, title))
        axes[1, column].set_xlabel(title)
    axes[0, 0].set_ylabel("evaluation, seconds per image")
    axes[1, 0].set_ylabel("peak memory, GiB")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _draw(axes: Axes, found: Sequence[Series], column: int, what: str) -> None:
    lines = dict.fromkeys((one.contestant.name, one.contestant.precision) for one in found)
    for marker, (name, precision) in zip(MARKERS * len(lines), lines, strict=False):
        points = [one for one in found if (one.contestant.name, one.contestant.precision) == (name, precision) and not one.failed]
        x = [one.case.classes if column == 0 else one.case.height * one.case.width for one in points]
        y = [one.median / one.case.batch_size if what == "time" else (one.peak_memory or 0) / GIB for one in points]
        axes.plot(x, y, marker=marker, label=f"{name}, {precision}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", alpha=0.3)


def _held(found: Sequence[Series], axis: str) -> str:
    case = found[0].case
    return (
        f"{case.size} pixels, batch {case.batch_size}"
        if axis == "classes"
        else f"{case.classes} classes, batch {case.batch_size}"
    )
