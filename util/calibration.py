"""Calibration: how far the probability of the predicted class is from how often that class is the true one."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15  # of the reliability diagram


def calibration(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Compute the reliability diagram and the expected calibration error (Guo et al., ICML 2017, eq. 3).

    Args:
        probabilities: of the predicted class of each image, `[N]`.
        right: whether it is the true one, bool `[N]`.

    Returns:
        `ece`, and for each of the `bins` of equal width `low`, `high`, `count`, and the means `confidence` and `accuracy`.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows: list[dict[str, Any]] = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        row: dict[str, Any] = {"low": number / bins, "high": (number + 1) / bins, "count": count}
        row["confidence"] = float(probabilities[inside].mean()) if count else None
        row["accuracy"] = float(right[inside].mean()) if count else None
        rows.append(row)
    gaps = [row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows if row["count"]]
    return {"bins": rows, "ece": sum(gaps) / max(1, len(right))}
