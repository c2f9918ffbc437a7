"""Metrics of maps on maps whose score is known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from attribution.metrics.localisation import average_precision, energy, energy_gain, pointing
from attribution.metrics.robustness import gini, head_diversity, max_sensitivity, spearman
from attribution.resize import enlarge, pool_to
from models.icn import resize_mask

SIZE = 32
Metric = Callable[..., torch.Tensor]


def one_mask(top: int = 8, left: int = 8, side: int = 8) -> torch.Tensor:
    """A square of 1/16 of the picture, by default, that is exactly 4 cells of an 8 x 8 grid."""
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def mask() -> torch.Tensor:
    return one_mask()


ALL = [pointing, energy, energy_gain, average_precision]


def by_hand(metric: Metric, maps: torch.Tensor, masks: torch.Tensor, expected: float) -> None:
    assert metric(maps, masks).tolist() == [pytest.approx(expected, abs=1e-5)]


@pytest.mark.parametrize(("metric", "perfect"), list(zip(ALL, (1, 1, 16, 1), strict=True)))
def test_perfect_map(metric: Metric, perfect: float, mask: torch.Tensor) -> None:
    by_hand(metric, mask.float(), mask, perfect)
    by_hand(metric, mask.double() * 1e-30, mask, perfect)  # whatever its scale
    by_hand(metric, mask.float() * 1e30, mask, perfect)


@pytest.mark.parametrize(("metric", "inverted"), list(zip(ALL, (0, 0, 0, 1 / 16), strict=True)))
def test_inverted_map(metric: Metric, inverted: float, mask: torch.Tensor) -> None:
    by_hand(metric, 1 - mask.float(), mask, inverted)


@pytest.mark.parametrize(("metric", "constant"), list(zip(ALL, (0, 1 / 16, 1, 1 / 16), strict=True)))
@pytest.mark.parametrize("grid", [(SIZE, SIZE), (7, 5)])
def test_constant_map(metric: Metric, constant: float, grid: tuple[int, int], mask: torch.Tensor) -> None:
    for value in (0.3, 1 / 3 * 1e-4, 7e5):
        maps = torch.full((1, *grid), value)
        by_hand(metric, maps, mask, constant)
        by_hand(metric, maps * (1 + 1e-7 * torch.randn(maps.shape)), mask, constant)  # what rounding leaves


@pytest.mark.parametrize(("metric", "nothing"), list(zip(ALL, (0, 0, 0, 1 / 16), strict=True)))
def test_map_of_zeros(metric: Metric, nothing: float, mask: torch.Tensor) -> None:
    by_hand(metric, torch.zeros(1, 4, 4), mask, nothing)


@pytest.mark.parametrize("metric", ALL)
def test_empty_mask_is_no_hit(metric: Metric) -> None:
    maps = torch.stack([torch.rand(4, 4), torch.ones(4, 4)])
    assert metric(maps, torch.zeros(2, SIZE, SIZE, dtype=torch.bool)).tolist() == [0, 0]


def chance(pixels: int, positives: int) -> float:
    """Expected average precision of a random order of pixels: the positives' share, and a little more for the first ones."""
    harmonic = sum(1 / k for k in range(1, pixels + 1))
    return ((positives - 1) / (pixels - 1) * (pixels - harmonic) + harmonic) / pixels


@pytest.mark.parametrize(("metric", "expected"), list(zip(ALL, (1 / 16, 1 / 16, 1, chance(SIZE**2, 64)), strict=True)))
def test_random_maps_in_expectation(metric: Metric, expected: float, mask: torch.Tensor) -> None:
    maps = torch.rand(2000, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    scores = metric(maps, mask.expand(len(maps), -1, -1))
    assert scores.mean().item() == pytest.approx(expected, abs=4 * scores.std().item() / len(maps) ** 0.5)


def test_pointing_shares_a_hit_between_ties() -> None:
    maps = torch.zeros(1, SIZE, SIZE)
    maps[0, 8, 8] = maps[0, 9, 9] = maps[0, 0, 0] = maps[0, 30, 30] = 1
    by_hand(pointing, maps, one_mask(), 0.5)


def test_pointing_knows_a_plateau_whose_pixels_were_rounded_apart() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[:, :, :2] = 1  # by interpolation 11 of its 1176 pixels are an ulp above the others
    masks = torch.zeros(1, 56, 56, dtype=torch.bool)
    masks[:, 28:] = True
    by_hand(pointing, maps, masks, 0.5)


def test_pointing_does_not_need_positive_values(mask: torch.Tensor) -> None:
    by_hand(pointing, mask.float() - 5, mask, 1)
    by_hand(energy, mask.float() - 5, mask, 0)  # but there is no mass


def test_energy_of_a_signed_map(mask: torch.Tensor) -> None:
    maps = torch.full((1, SIZE, SIZE), -1.0)
    maps[mask] = 3
    maps[0, 0, :16] = 12  # 16 * 12 = 64 * 3 of it outside
    by_hand(energy, maps, mask, 0.5)
    by_hand(energy_gain, maps, mask, 8)


def test_metrics_enlarge_coarse_maps(mask: torch.Tensor) -> None:
    maps = torch.zeros(1, 8, 8)
    maps[:, 2:4, 2:4] = 1  # the mask's cells
    full = enlarge(maps, (SIZE, SIZE))
    for metric in ALL:
        assert torch.allclose(metric(maps, mask), metric(full, mask), atol=1e-5)
    assert pointing(maps, mask).item() == 1 and 0.6 < energy(maps, mask).item() < 1


def slow_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """`sum_n (R_n - R_(n-1)) P_n`, a threshold for each distinct value, by counting."""
    total, previous = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = (found & truth).sum() / truth.sum()
        total += (recall - previous) * (found & truth).sum() / found.sum()
        previous = recall
    return total


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_average_precision_with_ties_by_counting(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    maps = torch.randint(levels, (6, 16, 16), generator=generator).float() - 2
    masks = torch.rand(6, 16, 16, generator=generator) < 0.2
    maps = maps + masks * levels / 10
    expected = [slow_average_precision(m.flatten().numpy(), t.flatten().numpy()) for m, t in zip(maps, masks, strict=True)]
    assert average_precision(maps, masks).tolist() == pytest.approx(expected, abs=1e-5)


def test_average_precision_by_hand() -> None:
    maps = torch.tensor([[[4.0, 3.0], [3.0, 1.0]]])
    masks = torch.tensor([[[True, True], [False, True]]])  # 1/3 * 1 + 1/3 * 2/3 + 1/3 * 3/4
    by_hand(average_precision, maps, masks, 29 / 36)


def test_metrics_refuse_what_they_cannot_rank(mask: torch.Tensor) -> None:
    broken = torch.zeros(1, 4, 4)
    broken[0, 0, 0] = math.nan
    for metric in ALL:
        with pytest.raises(ValueError, match="NaN"):
            metric(broken, mask)
        with pytest.raises(ValueError, match="bool"):
            metric(torch.rand(1, 4, 4), mask.float())


def test_gini_by_hand() -> None:
    maps = torch.tensor([[[1.0, 1], [1, 1]], [[0, 0], [0, -8]], [[0, 0], [0, 0]], [[1, 2], [3, 4]]])
    assert gini(maps).tolist() == pytest.approx([0, 0.75, 0, 0.25])


def test_head_diversity_by_hand() -> None:
    heads = torch.eye(4).view(4, 2, 2)  # no two share a cell
    same = torch.rand(1, 2, 2).expand(4, 2, 2)
    two = torch.stack([heads[0], heads[0], heads[1], heads[1]])  # 4 of 6 pairs are disjoint
    assert head_diversity(torch.stack([heads, 3 * heads, same, two])).tolist() == pytest.approx([1, 1, 0, 4 / 6], abs=1e-6)
    assert head_diversity(same[None, :1]).tolist() == [0]
    with pytest.raises(ValueError, match="negative"):
        head_diversity(-same[None])


def test_spearman_against_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randint(6, (5, 4, 5), generator=generator).float() for _ in range(2))
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(ours, theirs, strict=True)]
    assert spearman(ours, theirs).tolist() == pytest.approx(expected, abs=1e-6)
    assert spearman(ours, ours**3).tolist() == pytest.approx([1] * 5)
    assert spearman(ours, -ours).tolist() == pytest.approx([-1] * 5)
    assert spearman(ours, torch.ones_like(ours)).tolist() == [0] * 5


def test_max_sensitivity_of_maps_that_are_known() -> None:
    images = torch.rand(3, 3, 16, 16) + 1

    def flat(x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x[:, 0])

    assert max_sensitivity(flat, images).tolist() == [0, 0, 0]  # constant maps are "stable"
    moved = [max_sensitivity(lambda x: x.mean(1), images, radius=radius, samples=5) for radius in (0.01, 0.02)]
    assert torch.allclose(moved[1], 2 * moved[0], rtol=1e-3)  # linear in the picture
    assert (moved[0] < 0.01).all() and (moved[0] > 0.001).all()


def test_resizing_keeps_means_and_places() -> None:
    maps = torch.rand(2, 4, 6)
    assert torch.allclose(pool_to(maps.repeat_interleave(8, 1).repeat_interleave(8, 2), (4, 6)), maps)
    assert pool_to(one_mask(side=4), (8, 8))[0, 2, 2] == 1  # masks, too
    assert torch.equal(enlarge(maps, (4, 6)), maps)
    assert torch.allclose(enlarge(maps, (8, 12))[:, 0, 0], maps[:, 0, 0])
    padding = torch.zeros(2, 32, 48, dtype=torch.bool)
    padding[1, 20:], padding[1, :, 41:] = True, True
    cells = resize_mask(padding, torch.empty(2, 1, 4, 6))
    assert cells is not None and torch.equal(cells[1].sum(0), torch.tensor([1, 1, 1, 1, 1, 1]))  # 20 px: 2.5 cells
    with pytest.raises(ValueError, match=r"\[B, h, w\]"):
        enlarge(maps[0], (8, 12))
