"""Localisation metrics, how well a map finds a known region: pointing game, energy and pixel average precision.

Every function takes a batch and returns one number per map, `[N]`. Maps `[N, h, w]` stay signed and are enlarged to the size
of the masks `[N, H, W]` by `resize.enlarge`; only the pixels that `padding_mask` (bool `[N, H, W]`, True on padding; None when
nothing is padded) leaves count. No result is NaN: an empty mask, a constant map, a map with no positive value score 0 where
their definition says nothing. A ValueError is raised for a map that is not finite and for shapes that do not fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.resize import check, enlarge, grid_padding, repeat_border

CONSTANT = 1e-5  # spread over magnitude below which a map is what rounding leaves of a constant
TIE = 1e-6  # of a map's range: values that differ by less are equal but for the rounding of the interpolation


def pointing(maps: Tensor, masks: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Pointing game (Zhang et al., IJCV 2018; without its tolerance of 15 pixels): is the peak in the mask?

    Args:
        maps: `[N, h, w]`.
        masks: bool `[N, H, W]`.
        padding_mask: see the head of this file.

    Returns:
        1 for a hit, 0 for a miss. Where pixels tie for the peak, the share of them in the mask: what a peak drawn at random
        from them hits in expectation. A constant map has no peak and misses.
    """
    scores, inside, valid = _flat(maps, masks, padding_mask, ranked=True)
    peak = scores.masked_fill(~valid, -1).amax(1, keepdim=True)  # [N, 1]
    ties = valid & (scores >= peak - TIE)
    return ratio((ties & inside).sum(1), ties.sum(1)) * (peak[:, 0] > 0)


def energy(maps: Tensor, masks: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Energy-based pointing game (Wang et al., Score-CAM, CVPR-W 2020): the share of the map's mass in the mask.

    Args, returns:
        as for `pointing`; the mass is that of `max(map, 0)`, taken at the map's own grid, so that a negative cell does not
        eat into its neighbour. From 0 to 1; a map with no positive value scores 0.
    """
    scores, inside, valid = _flat(maps.clamp(min=0), masks, padding_mask)
    scores = scores / scores.amax(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)  # no overflow, no underflow
    return ratio((scores * inside).sum(1), (scores * valid).sum(1))


def energy_gain(maps: Tensor, masks: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Energy over the mask's share of the picture: 1 for a positive constant map, 0 for an empty mask."""
    share = energy(maps, masks, padding_mask=padding_mask)
    valid = torch.ones_like(masks) if padding_mask is None else ~padding_mask
    return ratio(share, ratio((masks & valid).sum((1, 2)), valid.sum((1, 2))))


def average_precision(maps: Tensor, masks: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Pixel average precision: the map as a score for the pixels of the mask, `sum_n (R_n - R_(n-1)) P_n` over thresholds n.

    Args, returns:
        as for `pointing`. Equal values share one threshold, so that a constant map scores the mask's share of the picture,
        whatever the order of the pixels. An empty mask scores 0.
    """
    scores, inside, valid = _flat(maps, masks, padding_mask, ranked=True)
    scores, order = scores.masked_fill(~valid, -1).sort(1, descending=True)  # padding comes last, and is never positive
    positive = inside.gather(1, order)
    last = group_ends(scores)
    precision = positive.cumsum(1).to(scores.dtype) / torch.arange(1, scores.shape[1] + 1, device=scores.device)
    return ratio((precision.gather(1, last) * positive).sum(1), positive.sum(1))  # each positive at its threshold


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, and 0 where the whole is 0; counts become float32."""
    part, whole = (x if x.is_floating_point() else x.float() for x in (part, whole))
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, torch.ones_like(whole)), torch.zeros_like(part))


def group_ends(ordered: Tensor) -> Tensor:
    """Index of the last of its equals for each value of sorted rows `[N, M]`."""
    count = ordered.shape[1]
    index = torch.arange(count, device=ordered.device).expand_as(ordered)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return index.masked_fill(~is_last, count).flip(1).cummin(1).values.flip(1)


def _flat(maps: Tensor, masks: Tensor, padding_mask: Tensor | None, ranked: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Enlarged maps (scaled if only their ranks matter), the pixels of the masks and those of the pictures: `[N, H*W]` each."""
    if masks.dtype != torch.bool or masks.dim() != 3 or len(masks) != len(maps):
        raise ValueError(f"masks must be bool [{len(maps)}, H, W], one for each map, not {masks.dtype} {list(masks.shape)}")
    size = (masks.shape[1], masks.shape[2])
    check(maps, size, padding_mask)
    valid = torch.ones_like(masks) if padding_mask is None else ~padding_mask
    enlarged = enlarge(_unit_range(maps, padding_mask) if ranked else maps, size, padding_mask)
    return enlarged.flatten(1), (masks & valid).flatten(1), valid.flatten(1)


def _unit_range(maps: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Scale each map to 0..1 at its own grid: ranks stay, and a constant becomes exactly 0, which enlarging would blur."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    if padding_mask is not None:  # a map that is constant on the picture is constant
        maps = repeat_border(maps, grid_padding(padding_mask, (maps.shape[1], maps.shape[2])))
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    constant = high - low <= CONSTANT * torch.maximum(high.abs(), low.abs())
    return ((maps - low) / torch.where(constant, torch.ones_like(low), high - low)).masked_fill(constant, 0)
