"""Localisation in grids of images (Rao et al., CVPR 2022): where in an n x n grid a map lies."""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.resize import check


def cell_shares(maps: Tensor, n: int) -> Tensor:
    """Compute the share of a map's positive mass in each cell of an n x n grid (Rao et al., CVPR 2022, section 3.1).

    Nothing is smoothed: a value of the map counts for the area that it covers, and is divided where it lies on a border.

    Args:
        maps: `[N, h, w]` of images that are n x n grids of images of one size.
        n: images along a side.

    Returns:
        `[N, n * n]`, row by row; a constant positive map has `1 / n ** 2` everywhere, a map without a positive value 0.

    Raises:
        ValueError: a map is not finite, or the shape does not fit.
    """
    check(maps)
    positive = maps.double().clamp(min=0)
    positive = positive / positive.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)  # no overflow
    mass = (_overlaps(n, maps.shape[1]).to(maps.device) @ positive @ _overlaps(n, maps.shape[2]).to(maps.device).T).flatten(1)
    return mass / mass.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _overlaps(n: int, count: int) -> Tensor:
    """Return which share of each of `count` equal intervals of a side lies in each of n equal parts: float64 `[n, count]`."""
    edges = torch.arange(count + 1, dtype=torch.float64) * n / count  # in parts
    part = torch.arange(n, dtype=torch.float64)[:, None]
    shared = torch.minimum(edges[1:], part + 1) - torch.maximum(edges[:-1], part)
    return shared.clamp(min=0) * count / n
