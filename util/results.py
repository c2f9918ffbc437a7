"""The files of an evaluation: results.json, per_class.csv, confusion_matrix.csv and its picture."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np


def write_results(folder: Path, classes: list[str], labels: np.ndarray, predictions: np.ndarray, stats: dict[str, Any]) -> None:
    """Write what an evaluation found.

    Args:
        folder: made if it does not exist.
        classes: names in logit order.
        labels, predictions: class index per image `[N]`.
        stats: numbers for results.json.

    Raises:
        ValueError: the folder cannot be written to.
    """
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)  # [true, predicted]
    np.add.at(matrix, (labels, predictions), 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(stats, indent=2) + "\n")
        _write_per_class(folder / "per_class.csv", classes, matrix)
        with (folder / "confusion_matrix.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["true \\ predicted", *classes])
            writer.writerows([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
        _draw(folder / "confusion_matrix.png", classes, matrix)
    except OSError as error:
        raise ValueError(f"--output_dir: {folder} cannot be written to ({error.strerror})") from None


def _write_per_class(path: Path, classes: list[str], matrix: np.ndarray) -> None:
    """One row per class: its images, hits, recall, precision and the class it is most often taken for."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "class", "images", "correct", "acc1", "precision", "most_confused_with", "times"])
        for index, name in enumerate(classes):
            images, correct, predicted = matrix[index].sum(), matrix[index, index], matrix[:, index].sum()
            wrong = matrix[index].copy()
            wrong[index] = 0
            rival = int(wrong.argmax())
            writer.writerow(
                [
                    index,
                    name,
                    images,
                    correct,
                    f"{100 * correct / images:.2f}" if images else "",
                    f"{100 * correct / predicted:.2f}" if predicted else "",
                    classes[rival] if wrong[rival] else "",
                    wrong[rival],
                ]
            )


def _draw(path: Path, classes: list[str], matrix: np.ndarray) -> None:
    """The confusion matrix as a picture, each row a share of its class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
        # A class name is no formula, whatever dollar signs it has.
        axes.set_xticks(range(count), names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=7, parse_math=False)
    FigureCanvasAgg(figure).print_png(str(path))
