"""Means with their uncertainty: percentile bootstrap (Efron 1979), seeded, over images.

A given seed and number of images draw the same samples, whatever the values are, so that differences are paired.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
AT_ONCE = 4_000_000  # counts held in memory


class Interval(NamedTuple):
    """A mean and its bootstrap interval; floats, or arrays where each image has an array of values (a curve).

    images: how many there are.
    """

    mean: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    images: int


def mean_interval(values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Compute the mean over images and its percentile interval.

    Args:
        values: one per image, `[N]`, or a row per image, `[N, K]`.
        level: of the interval, between its percentiles.
        resamples: how often the images are drawn, with replacement.
        seed: of the draws.

    Returns:
        A single image has no spread: the interval is its value.

    Raises:
        ValueError: there are no values, one is not finite, or the settings do not fit.
    """
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or not len(array):
        raise ValueError(f"values must be [N] or [N, K] with N at least 1, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("a value is NaN or infinite: a mean over images needs one finite value for each")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must lie between 0 and 1 and resamples be at least 1, not {level} and {resamples}")
    means = _resampled(array.reshape(len(array), -1), resamples, seed)  # [resamples, K]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return Interval(_plain(array.mean(0), array), _plain(low, array), _plain(high, array), len(array))


def _resampled(rows: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means `[resamples, K]` of N rows drawn with replacement from `[N, K]`."""
    rng = np.random.default_rng(seed)
    share = np.full(len(rows), 1 / len(rows))
    means = []
    while resamples:
        now = min(resamples, max(1, AT_ONCE // len(rows)))
        counts = rng.multinomial(len(rows), share, size=now)  # [now, N], how often each was drawn
        means.append(counts @ rows / len(rows))
        resamples -= now
    return np.concatenate(means)


def _plain(result: np.ndarray, array: np.ndarray) -> float | np.ndarray:
    return result.reshape(array.shape[1:]) if array.ndim == 2 else float(np.ravel(result)[0])
