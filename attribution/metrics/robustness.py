"""What describes maps and says nothing of whether they are right: sparseness, diversity of heads, agreement, stability.

Constant maps are "stable" and agree with nothing; read these numbers beside those of `metrics.py` and `perturb.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attribution.metrics.localisation import group_ends, ratio
from attribution.resize import check


def gini(maps: Tensor, *, padding: Tensor | None = None) -> Tensor:
    """Gini index of `|map|` (Hurley & Rickard 2009; for maps: Chalasani et al., ICML 2020): 0 even, towards 1 sparse.

    Args:
        maps: `[N, h, w]`.
        padding: bool `[N, h, w]`, the cells that do not count (`resize.grid_padding`), or None.

    Returns:
        `[N]`; one cell of n alone scores `1 - 1/n`, a map of zeros 0.
    """
    check(maps, (maps.shape[-2], maps.shape[-1]), padding)
    values = maps.abs().double().flatten(1)
    out = torch.zeros_like(values, dtype=torch.bool) if padding is None else padding.flatten(1)
    values = values.masked_fill(out, -1).sort(1).values  # what does not count comes first
    count = (~out).sum(1, keepdim=True)  # [N, 1]
    place = torch.arange(1, values.shape[1] + 1, device=values.device) - (values.shape[1] - count)  # 1..count
    values = values.clamp(min=0)
    return ratio(((2 * place - count - 1) * values).sum(1), count[:, 0] * values.sum(1)).float()


def head_diversity(maps: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence over all pairs of heads, in units of ln 2.

    Args:
        maps: non-negative, `[N, heads, h, w]`; each head is divided by its sum.

    Returns:
        `[N]`: 0 where all heads look at the same, 1 where no two heads share a cell; 0 for a single head.

    Raises:
        ValueError: a value is negative or not finite.
    """
    if not (torch.isfinite(maps).all() and (maps >= 0).all()):
        raise ValueError("head diversity compares distributions: the maps must be finite and not negative, like attention")
    heads = maps.shape[1]
    shares = maps.double().flatten(2)
    shares = shares / shares.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    total = torch.zeros(len(maps), dtype=torch.float64, device=maps.device)
    for head in range(heads - 1):
        one, others = shares[:, head : head + 1], shares[:, head + 1 :]
        total += (_entropy((one + others) / 2) - (_entropy(one) + _entropy(others)) / 2).sum(1)
    pairs = max(heads * (heads - 1) // 2, 1)
    return (total / (pairs * math.log(2))).clamp(0, 1).float()


def spearman(maps: Tensor, others: Tensor, *, padding: Tensor | None = None) -> Tensor:
    """Rank correlation of two maps, ties at their mean rank (Spearman 1904).

    Args:
        maps, others: `[N, h, w]` both.
        padding: bool `[N, h, w]`, the cells that do not count, or None.

    Returns:
        `[N]` from -1 to 1; 0 where a map is constant, which agrees with nothing.

    Raises:
        ValueError: the shapes differ, or a map is not finite.
    """
    if maps.shape != others.shape:
        raise ValueError(f"only maps of one shape can be correlated, not {list(maps.shape)} and {list(others.shape)}")
    valid = torch.ones_like(maps, dtype=torch.bool) if padding is None else ~padding
    valid = valid.flatten(1)
    centred = []
    for one in (maps, others):
        check(one, (one.shape[-2], one.shape[-1]), padding)
        ranks = _mean_ranks(one.double().flatten(1).masked_fill(~valid, math.inf))  # what does not count comes last
        centred.append((ranks - ratio((ranks * valid).sum(1), valid.sum(1).double())[:, None]) * valid)
    spread = (centred[0].square().sum(1) * centred[1].square().sum(1)).sqrt()
    return ratio((centred[0] * centred[1]).sum(1), spread).float()


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    padding_mask: Tensor | None = None,
) -> Tensor:
    """How far a map moves when the picture hardly does (Yeh et al., NeurIPS 2019; by sampling).

    Args:
        explain: gives the maps `[B, h, w]` of images.
        images: `[B, 3, H, W]`, normalised.
        radius: the noise is uniform in `[-radius, radius]` for each value of the normalised picture.
        samples: noisy copies of each picture; the largest distance counts, so state their number.
        seed: of the noise; the same for every method, so that all see the same pictures.
        padding_mask: bool `[B, H, W]`, True on padding, which stays as it is.

    Returns:
        `[B]`: the largest `|map(noisy) - map| / |map|` (Frobenius norms); 0 for a map of zeros that stays zero.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = explain(images).detach().double()
    size = torch.linalg.vector_norm(clean, dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    worst = torch.zeros_like(size)
    for _ in range(samples):
        noise = (2 * torch.rand(images.shape[1:], generator=generator) - 1).to(images) * radius  # one for all pictures
        noisy = images + (noise if padding_mask is None else noise.masked_fill(padding_mask[:, None], 0))
        distance = torch.linalg.vector_norm(explain(noisy).detach().double() - clean, dim=(1, 2))
        worst = torch.maximum(worst, distance / size)
    return worst.float()


def _entropy(shares: Tensor) -> Tensor:
    """In nats, over the last axis."""
    return -torch.special.xlogy(shares, shares).sum(-1)


def _mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of the values of each row `[N, M]`, equals at the mean of their places."""
    ordered, order = values.sort(1)
    last = group_ends(ordered).double()
    first = (values.shape[1] - 1 - group_ends(ordered.flip(1)).flip(1)).double()  # the ends of the reversed row
    return torch.empty_like(values).scatter_(1, order, (first + last) / 2)
