"""A figure for a paper: a grid of images with labels, at the width of a column, as PDF or SVG with text that stays text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from attribution.report.render import shorten
from util.atomic import replacing
from util.plotting import Figure, set_texts

COLUMN, PAGE = 3.25, 6.875  # width in inches of a column and of a page of two columns (CVPR, ICCV)
FONT, SMALLEST, GAP = 7.0, 5.0, 0.03  # points; inches between images
LINE = FONT / 72 * 1.3  # height of a line in inches
TALLEST = 2  # height of a row over the width of a column, at most


def draw_grid(
    path: Path, rows: Sequence[Sequence[np.ndarray]], row_labels: Sequence[str], column_labels: Sequence[str], width: float
) -> None:
    """Write a grid of images in the format of the suffix: labels of rows turned at the left, labels of columns above.

    Args:
        rows: images uint8 `[H, W, 3]`; those of a row have one shape.
        width: of the figure in inches; the height follows.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib does not know the format.
    """
    left, top = LINE + GAP, LINE + GAP
    side = (width - left - GAP * (len(column_labels) - 1)) / len(column_labels)
    ratios = [row[0].shape[0] / row[0].shape[1] for row in rows]
    heights = [min(max(side * ratio, LINE), TALLEST * side) for ratio in ratios]
    height = top + sum(heights) + GAP * (len(rows) - 1)
    figure = Figure(figsize=(width, height))
    y = height - top
    for row, row_height, ratio in zip(rows, heights, ratios, strict=True):
        y -= row_height
        w, h = min(side, row_height / ratio), min(row_height, side * ratio)
        for column, image in enumerate(row):
            x = left + column * (side + GAP)
            place = ((x + (side - w) / 2) / width, (y + (row_height - h) / 2) / height, w / width, h / height)
            axes = figure.add_axes(place)
            axes.imshow(image, interpolation="none", aspect="auto")
            axes.set_axis_off()
        y -= GAP
    top_edge = height - top
    for label, group in groupby(zip(row_labels, heights, strict=True), key=itemgetter(0)):  # rows of one label have it once
        extent = sum(row_height + GAP for _, row_height in group)
        middle = (top_edge - (extent - GAP) / 2) / height
        text = figure.text(LINE / 2 / width, middle, "", rotation=90, ha="center", va="center", fontsize=FONT)
        set_texts([text], [_fitting(label, extent - GAP)])
        top_edge -= extent
    size = _font_size(column_labels, side)
    for column, label in enumerate(column_labels):
        x = (left + column * (side + GAP) + side / 2) / width
        text = figure.text(x, 1 - LINE / 2 / height, "", ha="center", va="center", fontsize=size)
        set_texts([text], [_fitting(label, side, size)])
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=300, metadata=metadata)


def _font_size(labels: Sequence[str], inches: float) -> float:
    """Return the font size in points at which labels fit into a length, but no smaller than `SMALLEST`."""
    sizes = np.arange(FONT, SMALLEST, -0.5).tolist()
    return next(
        (size for size in sizes if all(_fitting(label, inches, size) == _fitting(label, 99, size) for label in labels)), SMALLEST
    )


def _fitting(text: str, inches: float, size: float = FONT) -> str:
    """Cut a label to a length."""
    return "".join(run for run, _ in shorten(text, inches * 720, int(10 * size)))  # measured at ten times the size
