"""Means over images and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Values = Mapping[str, np.ndarray]  # of metrics: one number per image, [N], nan where it was not measured or is not defined
RESAMPLES = 2000
AT_ONCE = 4_000_000  # counts of a bootstrap held in memory


def intervals(columns: Values) -> dict[str, dict[str, Any]]:
    """Compute mean and interval of many columns; those defined for the same images are drawn together, which is much faster."""
    alike: dict[bytes, list[str]] = {}
    for name, column in columns.items():
        alike.setdefault(np.isfinite(column).tobytes(), []).append(name)
    intervals: dict[str, dict[str, Any]] = {name: {"images": 0} for name in columns}
    for names in alike.values():
        finite = np.isfinite(columns[names[0]])
        if finite.any():
            mean, low, high, images = mean_interval(np.stack([columns[name][finite] for name in names], 1))
            for name, *numbers in zip(names, mean.tolist(), low.tolist(), high.tolist(), strict=True):
                intervals[name] = dict(zip(("mean", "low", "high", "images"), (*numbers, images), strict=True))
    return intervals


class Interval(NamedTuple):
    """A mean over images and its bootstrap interval, `[]` or `[K]`."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: int


def mean_interval(values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Compute the mean over images of `[N]` or `[N, K]` values and its percentile bootstrap interval (Efron 1979).

    A seed and a number of images draw the same samples, whatever the values are, so that differences are paired. A single image
    has no spread. A ValueError is raised where there are no values, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or not len(array):
        raise ValueError(f"values must be [N] or [N, K] with N at least 1, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("a value is NaN or infinite: a mean over images needs one finite value for each")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must lie between 0 and 1 and resamples be at least 1, not {level} and {resamples}")
    tail = (1 - level) / 2
    low, high = np.quantile(resampled_means(array, resamples, seed), [tail, 1 - tail], axis=0)
    return Interval(array.mean(0), low, high, len(array))


def resampled_means(rows: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return means `[resamples, ...]` of N rows drawn with replacement from `[N, ...]`."""
    rng = np.random.default_rng(seed)
    share = np.full(len(rows), 1 / len(rows))
    means = []
    while resamples:
        now = min(resamples, max(1, AT_ONCE // len(rows)))
        counts = rng.multinomial(len(rows), share, size=now)  # [now, N], how often each was drawn
        means.append(counts @ rows / len(rows))
        resamples -= now
    return np.concatenate(means)
