"""Descriptive metrics, which do not measure whether maps are right: sparseness, diversity of heads, agreement, stability.

Constant maps are "stable" and agree with nothing: compare these numbers with those of `localisation` and `faithfulness`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attribution.metrics.localisation import group_ends, ratio
from attribution.resize import check


def gini(maps: Tensor) -> Tensor:
    """Compute the Gini index of `|map|` (Hurley & Rickard 2009; for maps: Chalasani et al., ICML 2020): 0 even, towards 1 sparse.

    Of maps `[N, h, w]`, `[N]`; one cell of n alone scores `1 - 1/n`, a map of zeros 0.
    """
    check(maps)
    values = maps.abs().double().flatten(1).sort(1).values
    count = values.shape[1]
    place = torch.arange(1, count + 1, device=values.device)
    return ratio(((2 * place - count - 1) * values).sum(1), count * values.sum(1)).float()


def head_diversity(maps: Tensor) -> Tensor:
    """Compute the mean Jensen-Shannon divergence over all pairs of heads, in units of ln 2, of maps `[N, heads, h, w]`.

    It is 0 where all heads are equal, 1 where no two heads share a cell; 0 for a single head. A ValueError is raised for a
    value that is negative or not finite.
    """
    if not (torch.isfinite(maps).all() and (maps >= 0).all()):
        raise ValueError("head diversity compares distributions: the maps must be finite and not negative, like attention")
    heads = maps.shape[1]
    shares = maps.double().flatten(2)
    shares = shares / shares.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    total = torch.zeros(len(maps), dtype=torch.float64, device=maps.device)
    for head in range(heads - 1):
        first, others = shares[:, head : head + 1], shares[:, head + 1 :]
        total += (_entropy((first + others) / 2) - (_entropy(first) + _entropy(others)) / 2).sum(1)
    pairs = max(heads * (heads - 1) // 2, 1)
    return (total / (pairs * math.log(2))).clamp(0, 1).float()


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Compute the rank correlation of finite maps `[N, h, w]`, ties at their mean rank (Spearman 1904); 0 for constant maps."""
    if maps.shape != others.shape:
        raise ValueError(f"only maps of one shape can be correlated, not {list(maps.shape)} and {list(others.shape)}")
    check(maps)
    check(others)
    ranks = [_mean_ranks(values.double().flatten(1)) for values in (maps, others)]
    first, second = (values - values.sum(1, keepdim=True) / values.shape[1] for values in ranks)
    spread = (first.square().sum(1) * second.square().sum(1)).sqrt()
    return ratio((first * second).sum(1), spread).float()


def max_sensitivity(
    explain: Callable[[Tensor], Tensor], images: Tensor, *, radius: float = 0.02, samples: int = 10, seed: int = 0
) -> Tensor:
    """Compute max-sensitivity, the change of a map under small noise on the image (Yeh et al., NeurIPS 2019; by sampling).

    Args:
        radius: the noise is uniform in `[-radius, radius]` for each value of the normalised image.
        samples: noisy copies of each image; the largest distance counts, so state their number.
        seed: of the noise; the same for every method, so that all are given the same images.

    Returns:
        `[B]`: the largest `|map(noisy) - map| / |map|` (Frobenius norms); 0 for a map of zeros that stays zero.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = explain(images).detach().double()
    size = torch.linalg.vector_norm(clean, dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    worst = torch.zeros_like(size)
    for _ in range(samples):
        noise = (2 * torch.rand(images.shape[1:], generator=generator) - 1).to(images) * radius  # one for all images
        distance = torch.linalg.vector_norm(explain(images + noise).detach().double() - clean, dim=(1, 2))
        worst = torch.maximum(worst, distance / size)
    return worst.float()


def _entropy(shares: Tensor) -> Tensor:
    return -torch.special.xlogy(shares, shares).sum(-1)


def _mean_ranks(values: Tensor) -> Tensor:
    """Return the ranks from 0 of the values of each row `[N, M]`, those of equals at their mean."""
    ordered, order = values.sort(1)
    last = group_ends(ordered).double()
    first = (values.shape[1] - 1 - group_ends(ordered.flip(1)).flip(1)).double()  # the ends of the reversed row
    return torch.empty_like(values).scatter_(1, order, (first + last) / 2)
