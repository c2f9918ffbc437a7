"""The expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest

from util.calibration import calibration


def test_calibration_is_the_gap_of_confidence_and_accuracy() -> None:
    table = calibration(np.array([0.95, 0.95, 0.55, 1.0]), np.array([True, False, True, True]), bins=10)
    assert [row["count"] for row in table["bins"]] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert table["ece"] == pytest.approx((abs(0.55 - 1) + 3 * abs(2.9 / 3 - 2 / 3)) / 4)
