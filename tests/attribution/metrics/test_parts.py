"""Partitions against parts: the indices against their definitions, and the regression of key points."""

from __future__ import annotations

from itertools import combinations, product
from math import log

import numpy as np
import pytest
import torch

from attribution.metrics.parts import adjusted_rand, centroids, count_regions, mutual_information, regression_errors


def labels(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = rng.integers(0, 3, count)
    return parts, np.where(rng.random(count) < 0.6, parts, rng.integers(0, 4, count))


def counts_of(parts: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return count_regions(torch.from_numpy(parts)[None], torch.from_numpy(regions)[None], (3, 4))[0].numpy()


@pytest.mark.parametrize("seed", range(3))
def test_mutual_information_by_its_definition(seed: int) -> None:
    parts, regions = labels(seed)

    def entropy(*columns: np.ndarray) -> float:
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        return -sum(rows.count(row) / len(rows) * log(rows.count(row) / len(rows)) for row in set(rows))

    shared = entropy(parts) + entropy(regions) - entropy(parts, regions)
    expected = shared / ((entropy(parts) + entropy(regions)) / 2)
    assert mutual_information(counts_of(parts, regions)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_adjusted_rand_by_pairs(seed: int) -> None:
    """The share of pairs on which the two agree, less that of a random relabelling, over what is left to agree on."""
    parts, regions = labels(seed)
    pairs = list(combinations(range(len(parts)), 2))
    same = np.array([[column[i] == column[j] for i, j in pairs] for column in (parts, regions)])
    both, (first, second) = (same[0] & same[1]).sum(), same.sum(1)
    chance = first * second / len(pairs)
    assert adjusted_rand(counts_of(parts, regions)) == pytest.approx((both - chance) / ((first + second) / 2 - chance))


def test_equal_partitions_score_one_and_unrelated_ones_zero() -> None:
    parts = np.arange(3000) % 3
    for score in (mutual_information, adjusted_rand):
        assert score(counts_of(parts, (parts + 1) % 3)) == pytest.approx(1)
        assert score(counts_of(parts, np.random.default_rng(0).integers(0, 4, 3000))) == pytest.approx(0, abs=0.01)
        assert np.isnan(score(np.zeros((3, 4)))), "nothing was seen"
    assert mutual_information(counts_of(parts, np.zeros_like(parts))) == 0, "one region knows nothing"


def test_counts_are_of_each_image_and_leave_out_what_is_unknown() -> None:
    parts = torch.tensor([[0, 2, -1], [1, 1, 1]])
    regions = torch.tensor([[3, 0, 1], [2, 2, 0]])
    counts = count_regions(parts, regions, (3, 4))
    expected = np.zeros((2, 3, 4))
    expected[0, 0, 3] = expected[0, 2, 0] = expected[1, 1, 0] = 1
    expected[1, 1, 2] = 2
    assert counts.tolist() == expected.tolist()


def test_centroids() -> None:
    maps = torch.zeros(3, 4, 8)
    maps[0, 1, 6] = 3.0
    maps[1, 0, 0] = maps[1, 3, 0] = 1.0
    assert centroids(maps)[:2].tolist() == [[6.5 / 8, 1.5 / 4], [0.5 / 8, 0.5]] and centroids(maps)[2].isnan().all()


def world(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two parts anywhere in boxes of any size: key points, boxes, and centroids of three regions, of which one is at a part."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.4, (count, 1, 2))
    size = rng.uniform(0.2, 0.5, (count, 1, 2))
    points = low + size * rng.uniform(0, 1, (count, 2, 2))
    centres = np.stack([points[:, 0], *(low[:, 0] + size[:, 0] * rng.uniform(0, 1, (count, 2)) for _ in range(2))], 1)
    return points, np.concatenate([low, low + size], 1), centres


def test_a_region_at_a_part_finds_it_and_only_it() -> None:
    points, boxes, centres = world(0)
    first = points.copy()
    first[:, 1] = np.nan
    second = points.copy()
    second[:, 0] = np.nan
    assert np.nanmean(regression_errors(centres, first, boxes)) < 0.05
    # The mean distance of a uniform place in a square of side 1 from its centre is .383.
    assert np.nanmean(regression_errors(centres, second, boxes)) == pytest.approx(0.383, abs=0.06)
    both = regression_errors(centres, points, boxes)
    expected = (regression_errors(centres, first, boxes) + regression_errors(centres, second, boxes)) / 2
    np.testing.assert_allclose(both, expected)


def test_errors_do_not_depend_on_where_the_box_is_or_how_large() -> None:
    points, boxes, centres = world(1)

    def moved(places: np.ndarray) -> np.ndarray:
        return 0.3 * places + 0.1

    found = [regression_errors(*(change(each) for each in (centres, points, boxes))) for change in (np.array, moved)]
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_an_image_is_never_fitted_to_itself() -> None:
    """A key point that is noise has the error of its mean, whatever the number of regions."""
    points, boxes, _ = world(2, 40)
    centres = np.random.default_rng(3).uniform(0, 1, (40, 30, 2))
    assert np.nanmean(regression_errors(centres, points, boxes)) > 0.35


def test_missing_regions_points_and_boxes() -> None:
    points, boxes, centres = world(4)
    centres[::3, 0] = np.nan
    points[5] = np.nan
    boxes[6] = np.nan
    errors = regression_errors(centres, points, boxes)
    assert np.isnan(errors).nonzero()[0].tolist() == [5, 6] and errors[np.isfinite(errors)].max() < 2
    few = np.full_like(points, np.nan)
    few[:4] = points[:4]
    assert np.isnan(regression_errors(centres, few, boxes)).all(), "two images are too few to fit"


def test_resampled_counts_are_the_counts_of_resampled_images() -> None:
    from attribution.evaluation.parts import part_metrics

    rng = np.random.default_rng(5)
    counts = rng.integers(0, 5, (30, 1, 3, 4)).astype(float)
    errors = rng.uniform(0, 1, (30, 1))
    errors[::2] = np.nan
    found = part_metrics({"points": counts}, errors)
    assert set(found) == {"point_nmi", "point_ari", "point_error"}
    assert found["point_nmi"]["mean"] == pytest.approx(mutual_information(counts.sum((0, 1))))
    assert found["point_error"]["mean"] == pytest.approx(np.nanmean(errors)) and found["point_error"]["images"] == 15
    drawn = [counts[rng.integers(30, size=30)].sum((0, 1)) for _ in range(3000)]
    for name, score in (("point_nmi", mutual_information), ("point_ari", adjusted_rand)):
        low, high = np.quantile([score(each) for each in drawn], [0.025, 0.975])
        assert [found[name]["low"], found[name]["high"]] == pytest.approx([low, high], abs=0.1 * (high - low))


def test_all_kinds_of_partitions_of_a_grid() -> None:
    from attribution.evaluation.partitions import fixed_grid

    for regions, grid in product((4, 6, 7, 8), ((8, 8), (7, 9))):
        maps = fixed_grid(regions, grid)
        assert maps.shape == (regions, *grid) and (maps.sum(0) == 1).all() and (maps.sum((1, 2)) >= 1).all()
    assert fixed_grid(4, (2, 2)).argmax(0).tolist() == [[0, 1], [2, 3]]
