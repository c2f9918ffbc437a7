"""An alarm for shortcuts from maps alone: classes whose evidence lies at one place of the frame, or outside of the object.

A watermark, a caption or a cage is at the same place in many images of a class, and so is the evidence of a model that has
learned it (as the horses of Lapuschkin et al., Nature Communications, 2019). Each signal has a permutation test over all classes
and places at once, so that `RATE` is the chance of any false alarm by it, and a size below which a difference is no alarm,
however sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from attribution.metrics.heads import places
from util.progress import Progress

RATE = 0.05  # of false alarms of a signal, over all classes
LEAST = 0.2  # share of a class's evidence by which it must exceed what is expected
OUTSIDE = 0.5  # share outside of the object, of half of the classes, that is an alarm for the whole model
MIN_IMAGES = 5  # of a class
PERMUTATIONS = 499
WINDOW = 4  # windows along a side of the frame that do not overlap


@dataclass(frozen=True)
class Alarm:
    """A class whose evidence is suspicious.

    Attributes:
        label: the class; None: all classes together.
        signal: `place`, much evidence at one place of the frame; `outside`, much evidence outside of the object.
        share: mean share of the evidence there. expected: that of the other classes' images; for all classes, that at the
            mirrored place, or the limit outside of the object.
        p: probability that any class exceeds this by chance; None without a test.
        images: of the class.
        box: the place, left, top, right, bottom as shares of the image.
    """

    label: int | None
    signal: Literal["place", "outside"]
    share: float
    expected: float
    p: float | None
    images: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Shortcuts:
    """The alarms, the surest first, and how many images and classes were searched; a class needs `MIN_IMAGES`."""

    alarms: list[Alarm]
    images: int
    classes: int
    masks: int  # images whose object is known

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the content for files, with the names of classes."""
        alarms = [{**asdict(each), "class": None if each.label is None else classes[each.label]} for each in self.alarms]
        return {
            "images": self.images,
            "classes": self.classes,
            "masks": self.masks,
            "rate": RATE,
            "least": LEAST,
            "alarms": alarms,
        }


def find_shortcuts(maps: Sequence[Tensor], labels: Sequence[int], outside: np.ndarray | None = None, seed: int = 0) -> Shortcuts:
    """Search for classes whose evidence is at one place of the frame, or outside of the object.

    Args:
        maps: N maps `[h, w]` of the classes of images that are classified right, on the grids of the images; what is negative is
            evidence against the class, and does not count.
        labels: these classes.
        outside: share of the evidence outside of the object, `[N]`, nan where it is not known; `share_outside` computes it.
        seed: of the permutations.
    """
    if not len(maps):
        return Shortcuts([], 0, 0, 0)
    evidence = places([each.clamp(min=0).float() for each in maps]).numpy().astype(np.float64)  # [N, rows, columns]
    total = evidence.sum((1, 2))
    of_class = np.asarray(labels)
    often = np.bincount(of_class, weights=total > 0) >= MIN_IMAGES
    used = (total > 0) & often[of_class]
    evidence, of_class = evidence[used] / total[used, None, None], of_class[used]
    size = tuple(max(1, round(side / WINDOW)) for side in evidence.shape[1:])
    windows = sliding_window_view(evidence, size, axis=(1, 2)).sum((-2, -1))  # type: ignore[call-overload]  # [N, rows, columns]
    alarms: list[Alarm] = []
    known = np.zeros(0, bool)
    if len(np.unique(of_class)) > 1:
        alarms += _frame_alarm(windows, of_class, size, evidence.shape[1:], seed)
        alarms += _place_alarms(windows, of_class, size, evidence.shape[1:], seed)
        if outside is not None:
            known = np.isfinite(outside[used])
            alarms += _outside_alarms(outside[used][known], of_class[known], seed)
    alarms.sort(key=lambda alarm: (alarm.label is not None, alarm.p or 0, alarm.expected - alarm.share))
    return Shortcuts(alarms, len(of_class), len(np.unique(of_class)), int(known.sum()))


def share_outside(evidence: Tensor, masks: Tensor) -> Tensor:
    """Return the share of positive evidence `[B, h, w]` in cells that no pixel of the masks, bool `[B, H, W]`, touches: `[B]`.

    It is nan for an image without a mask and for a map without evidence. A cell that the object touches may hold it: what lies
    around the object through the size of the cells is not outside.
    """
    positive = evidence.clamp(min=0).double()
    touched = torch.nn.functional.adaptive_max_pool2d(masks[:, None].float(), evidence.shape[1:])[:, 0] > 0
    share = (positive * ~touched).sum((1, 2)) / positive.sum((1, 2))
    return share.masked_fill(~masks.flatten(1).any(1), torch.nan)


def _place_alarms(
    windows: np.ndarray, labels: np.ndarray, size: tuple[int, ...], grid: tuple[int, ...], seed: int
) -> list[Alarm]:
    """Compare the share at each place, `[N, rows, columns]`, of a class with that of all other classes."""
    columns = windows.shape[2]
    tested = _compare_classes(windows.reshape(len(windows), -1), labels, seed, "shortcuts: places")
    return [
        Alarm(label, "place", share, expected, p, images, _box(place // columns, place % columns, size, grid))
        for label, place, share, expected, p, images in tested
    ]


def _outside_alarms(outside: np.ndarray, labels: np.ndarray, seed: int) -> list[Alarm]:
    """Compare the share outside of the object, `[N]`, of a class with that of all other classes, and of all with `OUTSIDE`."""
    frame = (0.0, 0.0, 1.0, 1.0)
    classes = np.unique(labels)
    if len(classes) < 2:
        return []
    tested = _compare_classes(outside[:, None], labels, seed, "shortcuts: outside")
    alarms = [Alarm(label, "outside", share, expected, p, images, frame) for label, _, share, expected, p, images in tested]
    middle = float(np.median([outside[labels == label].mean() for label in classes]))
    if middle > OUTSIDE:
        alarms.append(Alarm(None, "outside", middle, OUTSIDE, None, len(labels), frame))
    return alarms


def _compare_classes(
    shares: np.ndarray, labels: np.ndarray, seed: int, title: str
) -> list[tuple[int, int, float, float, float, int]]:
    """Return class, column, share, that of the other classes, p and images of the classes with more of a column than others.

    The statistic is the largest difference of the mean of a class and that of all other images, in standard errors, over all
    columns and classes; the same of permuted labels gives its distribution if all classes were alike (Westfall and Young, 1993).
    """
    order = np.argsort(labels, kind="stable")
    shares, labels = shares[order], labels[order]
    classes, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    total, rest = shares.sum(0), (len(shares) - counts)[:, None]
    spread = np.sqrt(shares.var(0) + 1e-6)  # a place where no image has evidence is not infinitely sure
    scale = spread * np.sqrt(1 / counts[:, None] + 1 / rest)

    def differences(rows: np.ndarray) -> np.ndarray:  # [C, columns]
        sums = np.add.reduceat(rows, starts)
        return sums / counts[:, None] - (total - sums) / rest

    rng = np.random.default_rng(seed)
    with Progress(PERMUTATIONS, title) as progress:
        chance = np.empty(PERMUTATIONS)
        for number in range(PERMUTATIONS):
            chance[number] = (differences(shares[rng.permutation(len(shares))]) / scale).max()
            progress.step()
    found = differences(shares)
    results = []
    for row, label in enumerate(classes.tolist()):
        best = int((found[row] / scale[row]).argmax())
        p = (1 + int((chance >= found[row, best] / scale[row, best]).sum())) / (PERMUTATIONS + 1)
        if p <= RATE and found[row, best] >= LEAST:
            share = float(shares[labels == label, best].mean())
            results.append((label, best, share, share - float(found[row, best]), p, int(counts[row])))
    return results


def _frame_alarm(windows: np.ndarray, labels: np.ndarray, size: tuple[int, ...], grid: tuple[int, ...], seed: int) -> list[Alarm]:
    """Compare the share at each place with that at the place mirrored left to right, of all classes together.

    A mark that all classes have at one place makes no class differ from others; but left and right of photographs are alike. The
    distribution is that of images mirrored at random.
    """
    difference = windows - windows[:, :, ::-1]
    flat = difference.reshape(len(windows), -1)
    scale = np.sqrt((flat**2).mean(0) + 1e-6) / np.sqrt(len(flat))
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (PERMUTATIONS, len(flat)))
    chance = (np.abs(signs @ flat / len(flat)) / scale).max(1)
    mean = flat.mean(0)
    best = int((mean / scale).argmax())
    p = (1 + int((chance >= mean[best] / scale[best]).sum())) / (PERMUTATIONS + 1)
    by_class = [flat[labels == label, best].mean() for label in np.unique(labels)]
    if p > RATE or np.median(by_class) < LEAST:  # few classes with a mark are found one by one
        return []
    share = float(windows.reshape(len(windows), -1)[:, best].mean())
    row, column = divmod(best, windows.shape[2])
    return [Alarm(None, "place", share, share - float(mean[best]), p, len(flat), _box(row, column, size, grid))]


def _box(row: int, column: int, size: tuple[int, ...], grid: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a window as shares."""
    return column / grid[1], row / grid[0], (column + size[1]) / grid[1], (row + size[0]) / grid[0]
