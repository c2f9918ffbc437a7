"""Files of an evaluation: results.json, per_class.csv, confusion_matrix.csv and confusion_matrix.png."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import atomic_write, replacing
from .tables import write_csv

PER_CLASS = ["index", "class", "images", "correct", "acc1", "precision", "most_confused_with", "times"]


def write_results(folder: Path, classes: list[str], labels: np.ndarray, predictions: np.ndarray, stats: dict[str, Any]) -> None:
    """Write the results of an evaluation, each file atomically.

    Args:
        folder: created if it does not exist; ValueError if it cannot be written to.
        classes: names in logit order.
        labels, predictions: class index per image `[N]`.
        stats: numbers for results.json.
    """
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)  # [true, predicted]
    np.add.at(matrix, (labels, predictions), 1)
    confusion = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "results.json") as file:
            file.write(json.dumps(stats, indent=2) + "\n")
        write_csv(folder / "per_class.csv", PER_CLASS, _per_class(classes, matrix))
        write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *classes], confusion)
        _draw(folder / "confusion_matrix.png", classes, matrix)
    except OSError as error:
        raise ValueError(f"--output_dir: {folder} cannot be written to ({error.strerror})") from None


def _per_class(classes: list[str], matrix: np.ndarray) -> Iterator[list[Any]]:
    """Yield a row per class: its images, hits, recall, precision and the class that it is most often confused with."""
    for index, name in enumerate(classes):
        images, correct, predicted = matrix[index].sum(), matrix[index, index], matrix[:, index].sum()
        recall, precision = (f"{100 * correct / count:.2f}" if count else "" for count in (images, predicted))
        errors = matrix[index].copy()
        errors[index] = 0
        most = int(errors.argmax())
        yield [index, name, images, correct, recall, precision, classes[most] if errors[most] else "", errors[most]]


def _draw(path: Path, classes: list[str], matrix: np.ndarray) -> None:
    """Draw the confusion matrix, each row divided by the images of its class."""
    from .plotting import Figure, FigureCanvasAgg, set_tick_labels

    count = len(classes)
    side = min(max(4.0, 1.5 + 0.28 * count), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 50:
        names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
        set_tick_labels(axes.xaxis, names, fontsize=7, rotation=90)
        set_tick_labels(axes.yaxis, names, fontsize=7)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
