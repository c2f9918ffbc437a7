"""Telling two groups apart by a score: area under the ROC curve and false positives, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
TPR = 0.95  # share of the positives that are accepted where false positives are counted


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve: the probability that a positive scores above a negative, ties counted by half.

    Args:
        positive, negative: scores `[P]` and `[N]`, none empty.
    """
    ordered = np.sort(positive)
    below, upto = (np.searchsorted(ordered, negative, side) for side in ("left", "right"))
    return float(1 - (below + upto).mean() / 2 / len(ordered))


def false_positives(positive: np.ndarray, negative: np.ndarray, tpr: float = TPR) -> float:
    """Return the share of negatives that are accepted by the highest threshold which accepts at least `tpr` of the positives."""
    ordered = np.sort(positive)
    rejected = int(np.floor(len(ordered) * (1 - tpr) + 1e-9))
    return float((negative >= ordered[rejected]).mean())


def compare_scores(
    positive: Mapping[str, np.ndarray], negative: Mapping[str, np.ndarray], baseline: str, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Measure several scores of the same images.

    All scores have the same bootstrap samples (of positives and of negatives, each by itself), so that differences are paired.

    Args:
        positive, negative: for each score those of the P positives and of the N negatives; higher is more positive.
        baseline: the score that the others are compared with.
        seed: of the samples.

    Returns:
        For each score `auroc`, `fpr` (`false_positives`), and `gain`, its `auroc` less that of the baseline.
    """
    rng = np.random.default_rng(seed)
    p, n = len(positive[baseline]), len(negative[baseline])
    draws = [(rng.integers(p, size=p), rng.integers(n, size=n)) for _ in range(RESAMPLES)]
    areas, rates = {}, {}
    for name in positive:
        samples = [(positive[name], negative[name]), *((positive[name][i], negative[name][j]) for i, j in draws)]
        areas[name] = np.array([auroc(*sample) for sample in samples])
        rates[name] = np.array([false_positives(*sample) for sample in samples])
    return {
        name: {"auroc": _estimate(areas[name]), "fpr": _estimate(rates[name]), "gain": _estimate(areas[name] - areas[baseline])}
        for name in positive
    }


def _estimate(values: np.ndarray) -> Estimate:
    """Return the estimate of a value and of its bootstrap samples, which follow it."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))
