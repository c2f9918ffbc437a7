"""Area under the ROC curve and false positives against their definitions, and paired intervals."""

from __future__ import annotations

import numpy as np
import pytest

from util.roc import RESAMPLES, auroc, compare_scores, false_positives


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40).astype(float), rng.integers(-3, 6, 30).astype(float)  # with ties
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert auroc(positive, negative) == pytest.approx(pairs.mean())
    assert auroc(negative, positive) == pytest.approx(1 - pairs.mean())
    assert auroc(np.ones(3), np.ones(5)) == 0.5 and auroc(np.ones(1), np.zeros(1)) == 1


def test_false_positives_where_enough_positives_are_accepted() -> None:
    positive = np.arange(20.0)  # 0.95 of them: all but the lowest
    assert false_positives(positive, np.array([0.5, 1, 1.5, 30])) == 0.75
    assert false_positives(positive[:19], np.array([-1, 0, 0.5, 30])) == 0.75  # one less would be too many
    assert false_positives(positive, np.array([5.0, -5.0]), tpr=1.0) == 0.5


def test_intervals_hold_the_value_and_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    positive, negative = {"a": rng.normal(1, 1, 60)}, {"a": rng.normal(0, 1, 50)}
    for group in (positive, negative):
        group["same"], group["worse"] = 3 * group["a"] + 1, -group["a"]
    found = compare_scores(positive, negative, "a")
    a, same, worse = (found[name] for name in ("a", "same", "worse"))
    assert a["auroc"] == same["auroc"] and tuple(same["gain"]) == (0, 0, 0) and tuple(a["gain"]) == (0, 0, 0)
    assert a["auroc"].low < a["auroc"].value < a["auroc"].high and 0.05 < a["auroc"].high - a["auroc"].low < 0.3
    assert worse["gain"].high < 0 and worse["auroc"].value == pytest.approx(1 - a["auroc"].value)
    assert found == compare_scores(positive, negative, "a") and found != compare_scores(positive, negative, "a", seed=1)
    assert RESAMPLES >= 1000
