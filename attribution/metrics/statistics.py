"""Means with their uncertainty: percentile bootstrap (Efron 1979), seeded, over images.

With `groups`, values of one group (the seeds of one image, the parts of one picture) are drawn together: they are no
independent witnesses. A given seed and number of groups draw the same samples, whatever the values are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
AT_ONCE = 4_000_000  # counts held in memory


class Interval(NamedTuple):
    """A mean and its bootstrap interval; floats, or arrays where each image has an array of values (a curve).

    images: how many images, or groups, were drawn from.
    """

    mean: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    images: int


def mean_interval(
    values: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean over images.

    Args:
        values: one per image, `[N]`, or a row per image, `[N, K]`.
        groups: what image, `[N]`, where an image has several values; None if each value is an image.
        level: of the interval, between its percentiles.
        resamples: how often the images are drawn, with replacement.
        seed: of the draws.

    Returns:
        The mean of all values and its interval. A single image has no spread: the interval is its value.

    Raises:
        ValueError: there are no values, one is not finite, or the sizes or settings do not fit.
    """
    array, sums, sizes = _grouped(values, groups)
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must lie between 0 and 1 and resamples be at least 1, not {level} and {resamples}")
    means = _resampled(sums, sizes, resamples, seed)  # [resamples, K]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return Interval(_plain(array.mean(0), array), _plain(low, array), _plain(high, array), len(sizes))


def _grouped(values: ArrayLike, groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values `[N, ...]`, and sum `[G, K]` and number `[G]` of those of each group."""
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or not len(array):
        raise ValueError(f"values must be [N] or [N, K] with N at least 1, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("a value is NaN or infinite: a mean over images needs one finite value for each")
    rows = array.reshape(len(array), -1)
    if groups is None:
        return array, rows, np.ones(len(rows))
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if index.shape != (len(rows),):
        raise ValueError(f"groups must be [{len(rows)}], one for each value, not {list(np.shape(groups))}")
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, index, rows)
    return array, sums, np.bincount(index).astype(np.float64)


def _resampled(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means `[resamples, K]` of groups drawn with replacement, as many as there are."""
    rng = np.random.default_rng(seed)
    groups = len(sizes)
    share = np.full(groups, 1 / groups)
    means = []
    while resamples:
        now = min(resamples, max(1, AT_ONCE // groups))
        counts = rng.multinomial(groups, share, size=now)  # [now, G], how often each was drawn
        means.append(counts @ sums / (counts @ sizes)[:, None])
        resamples -= now
    return np.concatenate(means)


def _plain(result: np.ndarray, array: np.ndarray) -> float | np.ndarray:
    return result.reshape(array.shape[1:]) if array.ndim == 2 else float(np.ravel(result)[0])
