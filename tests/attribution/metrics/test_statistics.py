"""Bootstrap intervals: of the width that theory gives, covering as often as they say, and paired."""

from __future__ import annotations

import numpy as np
import pytest

from attribution.metrics.statistics import mean_interval


def test_interval_of_a_large_sample_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    interval = mean_interval(values, resamples=3000)
    error = values.std() / len(values) ** 0.5
    expected = [values.mean() - 1.96 * error, values.mean() + 1.96 * error]
    assert interval.mean == pytest.approx(values.mean())
    assert [interval.low, interval.high] == pytest.approx(expected, abs=0.2 * error)
    narrow = mean_interval(values, level=0.5, resamples=3000)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * error, rel=0.1)
    assert interval.images == 1000


def test_interval_by_a_plain_loop() -> None:
    values = np.array([0.0, 0.0, 1.0, 5.0])
    rng = np.random.default_rng(1)
    means = [values[rng.integers(4, size=4)].mean() for _ in range(20000)]
    found = mean_interval(values, resamples=20000)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.26)  # a value is 1/4 apart


def test_coverage() -> None:
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.normal(3, 1, 50), resamples=400, seed=trial) for trial in range(300)]
    covered = np.mean([one.low <= 3 <= one.high for one in intervals])
    assert 0.88 < covered < 0.98


def test_draws_are_seeded_and_the_same_for_all_values() -> None:
    values = np.random.default_rng(3).normal(size=40)
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5) != mean_interval(values, seed=6)
    assert mean_interval(2 * values + 1, seed=5).low == pytest.approx(2 * mean_interval(values, seed=5).low + 1)


def test_pairing_removes_what_the_images_share() -> None:
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 10, 100)
    ours, theirs = difficulty + 0.5 + rng.normal(0, 0.5, 100), difficulty + rng.normal(0, 0.5, 100)
    difference = mean_interval(ours - theirs)
    assert 0 < difference.low < 0.5 < difference.high < 1
    assert mean_interval(ours).low < mean_interval(theirs).high  # alone, the two cannot be told apart
    back = mean_interval(theirs - ours)
    assert (back.mean, back.low, back.high) == pytest.approx((-difference.mean, -difference.high, -difference.low))
    nothing = mean_interval(ours - ours)
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)


def test_curves_have_an_interval_at_each_step() -> None:
    curves = np.random.default_rng(6).normal(size=(30, 5)) + np.arange(5)
    found = mean_interval(curves)
    assert isinstance(found.low, np.ndarray) and found.low.shape == (5,)
    for step in range(5):
        alone = mean_interval(curves[:, step])
        assert (found.mean[step], found.low[step], found.high[step]) == pytest.approx((alone.mean, alone.low, alone.high))


def test_a_single_image_has_no_spread() -> None:
    assert mean_interval([0.25])[:3] == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least 1"),
        ([0.0, float("nan")], {}, "NaN"),
        ([0.0, 1.0], {"level": 1.0}, "level"),
        ([0.0, 1.0], {"resamples": 0}, "resamples"),
    ],
)
def test_bad_values(values: list[float], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values, **options)
