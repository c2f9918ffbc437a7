"""Files of an evaluation: results.json, per_class.csv, confusion_matrix.csv and confusion_matrix.png."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import atomic_write, replacing
from .tables import write_csv

PER_CLASS = ["index", "class", "images", "correct", "acc1", "precision", "most_confused_with", "times"]
DENSE = 1000  # classes up to which the confusion matrix is written and drawn as a whole
NAMED = 50  # classes up to which the picture has names


@dataclass(frozen=True)
class Confusion:
    """A sparse confusion matrix: `images[i]` images of class `true[i]` were predicted as `predicted[i]`, in this order."""

    classes: Sequence[str]
    true: np.ndarray
    predicted: np.ndarray
    images: np.ndarray

    @staticmethod
    def count(classes: Sequence[str], labels: np.ndarray, predictions: np.ndarray) -> Confusion:
        pairs, images = np.unique(labels.astype(np.int64) * len(classes) + predictions, return_counts=True)
        return Confusion(classes, *np.divmod(pairs, len(classes)), images)

    def sums(self, index: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the number of images per class `[C]`: of `true` or `predicted`, over the chosen pairs."""
        return np.bincount(index[chosen], self.images[chosen], len(self.classes)).astype(np.int64)

    def dense(self, chosen: np.ndarray) -> np.ndarray:
        """Return the matrix `[true, predicted]` of the chosen classes."""
        place = np.full(len(self.classes), -1)
        place[chosen] = np.arange(len(chosen))
        kept = (place[self.true] >= 0) & (place[self.predicted] >= 0)
        matrix = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
        matrix[place[self.true[kept]], place[self.predicted[kept]]] = self.images[kept]
        return matrix

    def most_confused(self) -> np.ndarray:
        """Return the `NAMED` classes with most errors, as true or as predicted class, in the order of classes."""
        wrong = self.true != self.predicted
        errors = self.sums(self.true, wrong) + self.sums(self.predicted, wrong)
        return np.sort(np.argsort(-errors, kind="stable")[:NAMED])


def write_results(folder: Path, classes: list[str], labels: np.ndarray, predictions: np.ndarray, stats: dict[str, Any]) -> None:
    """Write the results of an evaluation, each file atomically, into an existing folder (OSError).

    Beyond `DENSE` classes confusion_matrix.csv lists the pairs of classes with images, and its picture shows the `NAMED` classes
    that are confused most.

    Args:
        folder: the results.
        classes: names in logit order.
        labels, predictions: class index per image `[N]`.
        stats: numbers for results.json.
    """
    confusion = Confusion.count(classes, labels, predictions)
    with atomic_write(folder / "results.json") as file:
        file.write(json.dumps(stats, indent=2) + "\n")
    write_csv(folder / "per_class.csv", PER_CLASS, _per_class(confusion))
    if len(classes) <= DENSE:
        rows = ([name, *row] for name, row in zip(classes, confusion.dense(np.arange(len(classes))).tolist(), strict=True))
        write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *classes], rows)
    else:
        pairs = zip(confusion.true.tolist(), confusion.predicted.tolist(), confusion.images.tolist(), strict=True)
        named = ([classes[true], classes[predicted], images] for true, predicted, images in pairs)
        write_csv(folder / "confusion_matrix.csv", ["true", "predicted", "images"], named)
    _draw(folder / "confusion_matrix.png", confusion)


def _per_class(confusion: Confusion) -> Iterator[list[Any]]:
    """Yield a row per class: its images, hits, recall, precision and the class that it is most often confused with."""
    right = confusion.true == confusion.predicted
    images, predicted = confusion.sums(confusion.true), confusion.sums(confusion.predicted)
    correct = confusion.sums(confusion.true, right)
    most: dict[int, int] = {}  # the pair of each class with most errors, the first of equals
    for pair in np.flatnonzero(~right).tolist():
        true = int(confusion.true[pair])
        if true not in most or confusion.images[pair] > confusion.images[most[true]]:
            most[true] = pair
    for index, name in enumerate(confusion.classes):
        counts = images[index], predicted[index]
        recall, precision = (f"{100 * correct[index] / count:.2f}" if count else "" for count in counts)
        confused = (
            [confusion.classes[confusion.predicted[most[index]]], confusion.images[most[index]]] if index in most else ["", 0]
        )
        yield [index, name, images[index], correct[index], recall, precision, *confused]


def _draw(path: Path, confusion: Confusion) -> None:
    """Draw the confusion matrix, each row divided by the images of its class."""
    from .plotting import Figure, FigureCanvasAgg, set_tick_labels

    classes, chosen, title = confusion.classes, np.arange(len(confusion.classes)), ""
    if len(classes) > DENSE:
        chosen = confusion.most_confused()
        title = f"the {NAMED} of {len(classes)} classes that are confused most"
    count = len(chosen)
    side = min(max(4.0, 1.5 + 0.28 * count), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot(title=title)
    shares = confusion.dense(chosen) / np.maximum(confusion.sums(confusion.true)[chosen], 1)[:, None]
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED:
        names = [name if len(name) <= 24 else name[:23] + "…" for name in (classes[index] for index in chosen.tolist())]
        set_tick_labels(axes.xaxis, names, fontsize=7, rotation=90)
        set_tick_labels(axes.yaxis, names, fontsize=7)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
