"""How well a partition of images into regions follows the parts of the object, over a whole data set.

Normalised mutual information and adjusted Rand index of regions and parts, at pixels or at key points of the object (Choudhury et
al., NeurIPS 2021), and the regression of key points from the centroids of the regions (Hung et al., SCOPS, CVPR 2019), as in
PDiscoFormer (Aniraj et al., ECCV 2024). Both indices are functions of counts that are summed over the images, so that resampled
images are resampled counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RIDGE = 1.0  # weight of the penalty, of standardised centroids
MIN_FIT = 3  # images that a key point must be visible in to be regressed


@dataclass(frozen=True)
class Partition:
    """What the images, or R resamples of them, say about a partition; a leading axis of D draws where it is random.

    pixels, points: counts `[R, D, G, K]` of pixels, and of key points, of a part in a region; nan where the parts are not known.
    errors: mean error of the key points, `[R, D]`; nan where it was not measured.
    """

    pixels: np.ndarray
    points: np.ndarray
    errors: np.ndarray


def count_regions(parts: Tensor, regions: Tensor, shape: tuple[int, int]) -> Tensor:
    """Count the places of each part and region: float64 `[B, G, K]`.

    Args:
        parts: int64 `[B, P]`, the part at each place; -1 for a place that does not count.
        regions: int64 `[B, P]`.
        shape: numbers of parts G and regions K.
    """
    images, known = torch.arange(len(parts))[:, None].expand_as(parts), parts >= 0
    flat = (images * shape[0] + parts) * shape[1] + regions
    counts = torch.bincount(flat[known], minlength=len(parts) * shape[0] * shape[1])
    return counts.view(len(parts), *shape).double()


def mutual_information(counts: np.ndarray) -> np.ndarray:
    """Compute the normalised mutual information of counts `[..., G, K]`: `I(part, region) / mean of their entropies`.

    It is 1 for equal partitions, nan without a count, and 0 where parts or regions are a single one.
    """
    total = counts.sum((-2, -1), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = counts / total
        first, second = joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True)
        shared = _entropy(first) + _entropy(second) - _entropy(joint)
        mean = (_entropy(first) + _entropy(second)) / 2
        scores = np.where(mean > 0, shared.clip(min=0) / mean, 0.0)
    return np.where(total[..., 0, 0] > 0, scores, np.nan)


def adjusted_rand(counts: np.ndarray) -> np.ndarray:
    """Compute the adjusted Rand index of counts `[..., G, K]` (Hubert and Arabie, 1985, eq. 5): 1 if equal, 0 by chance.

    It is nan with fewer than two counts, and where parts and regions are a single one.
    """

    def pairs(numbers: np.ndarray) -> np.ndarray:
        return numbers * (numbers - 1) / 2

    both = pairs(counts).sum((-2, -1))
    first, second = pairs(counts.sum(-1)).sum(-1), pairs(counts.sum(-2)).sum(-1)
    total = pairs(counts.sum((-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = first * second / total
        return (both - chance) / ((first + second) / 2 - chance)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Return the entropy over the last two axes, in nats."""
    return -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0).sum((-2, -1))


def centroids(maps: Tensor) -> Tensor:
    """Return the centre of mass of non-negative maps `[..., h, w]`, (x, y) as shares: float64 `[..., 2]`; nan for a map of 0."""
    maps = maps.double()
    rows, columns = maps.sum(-1), maps.sum(-2)  # [..., h], [..., w]
    place = [((torch.arange(side.shape[-1]) + 0.5) / side.shape[-1]).to(side) for side in (columns, rows)]
    return torch.stack([(columns * place[0]).sum(-1), (rows * place[1]).sum(-1)], -1) / maps.sum((-2, -1))[..., None]


def regression_errors(centres: np.ndarray, points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Regress key points from centroids by ridge regression on one half of the images, and return the errors on the other.

    Each half is fitted once. Both are in coordinates of the object's box, so that an error of 1 is a side of the box. A centroid
    that is missing has the mean of the others.

    Args:
        centres: `[N, K, 2]`. points, boxes: `[N, G, 2]`, `[N, 2, 2]`, as in `KeyPoints`; nan where unknown.

    Returns:
        The mean error of the visible key points of each image, `[N]`; nan without one, and where too few images have them.
    """
    size = (boxes[:, 1] - boxes[:, 0])[:, None]  # [N, 1, 2]
    inputs = ((centres - boxes[:, :1]) / size).reshape(len(centres), -1)  # [N, 2 K]
    targets = (points - boxes[:, :1]) / size
    errors = np.full(points.shape[:2], np.nan)
    half = np.arange(len(points)) % 2
    for index in range(points.shape[1]):
        seen = np.isfinite(targets[:, index]).all(-1)
        for test in (0, 1):
            fit, rest = seen & (half != test), seen & (half == test)
            if fit.sum() >= MIN_FIT:
                predicted = _ridge(inputs[fit], targets[fit, index], inputs[rest])
                errors[rest, index] = np.linalg.norm(predicted - targets[rest, index], axis=-1)
    found = np.isfinite(errors)
    return np.where(found.any(1), np.where(found, errors, 0).sum(1) / found.sum(1).clip(min=1), np.nan)


def _ridge(inputs: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit targets `[n, 2]` to inputs `[n, F]`, standardised, with an intercept, and predict those of `new`: `[m, 2]`."""
    known = np.isfinite(inputs)
    count = known.sum(0).clip(min=1)
    mean = np.where(known, inputs, 0).sum(0) / count
    spread = np.sqrt(np.where(known, (inputs - mean) ** 2, 0).sum(0) / count)
    scale = np.where(spread > 1e-9, spread, np.inf)  # a column that is constant says nothing

    def standardised(rows: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(rows), (rows - mean) / scale, 0)

    x, middle = standardised(inputs), targets.mean(0)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (targets - middle))
    return standardised(new) @ weights + middle
