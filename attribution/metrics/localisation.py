"""Localisation metrics, how well a map finds a known region: pointing game, energy and pixel average precision.

Every function takes maps `[N, h, w]` and masks bool `[N, H, W]`, and returns one number per map, `[N]`. Maps stay signed and are
enlarged to the size of the masks by `resize.enlarge`. No result is NaN: an empty mask, a constant map, a map with no positive
value score 0 where their definition says nothing. A ValueError is raised for a map that is not finite and for wrong shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.resize import check, enlarge

CONSTANT = 1e-5  # spread over magnitude below which a map is what rounding leaves of a constant
TIE = 1e-6  # of a map's range: values that differ by less are equal but for the rounding of the interpolation


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the pointing game (Zhang et al., IJCV 2018; without its tolerance of 15 pixels): 1 for a peak in the mask, else 0.

    Where pixels tie for the peak, the share of them in the mask: what a peak drawn at random from them hits in expectation. A
    constant map has no peak and misses.
    """
    scores, inside = _flat(maps, masks, ranked=True)
    peak = scores.amax(1, keepdim=True)  # [N, 1]
    ties = scores >= peak - TIE
    return ratio((ties & inside).sum(1), ties.sum(1)) * (peak[:, 0] > 0)


def energy(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the energy-based pointing game (Wang et al., Score-CAM, CVPR-W 2020), the share of the map's mass in the mask.

    The mass is that of `max(map, 0)`, taken at the map's own grid, so that a negative cell does not reduce its neighbour. From 0
    to 1; a map without a positive value scores 0.
    """
    scores, inside = _flat(maps.clamp(min=0), masks)
    scores = scores / scores.amax(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)  # no overflow, no underflow
    return ratio((scores * inside).sum(1), scores.sum(1))


def energy_gain(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the energy over the mask's share of the image: 1 for a positive constant map, 0 for an empty mask."""
    pixels = torch.full((len(masks),), masks[0].numel(), device=masks.device)
    return ratio(energy(maps, masks), ratio(masks.sum((1, 2)), pixels))


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute pixel average precision, the map as a score for the mask's pixels: `sum_n (R_n - R_(n-1)) P_n` over thresholds n.

    Equal values share one threshold, so that a constant map scores the mask's share of the image, whatever the order of the
    pixels. An empty mask scores 0.
    """
    scores, inside = _flat(maps, masks, ranked=True)
    scores, order = scores.sort(1, descending=True)
    positive = inside.gather(1, order)
    last = group_ends(scores)
    precision = positive.cumsum(1).to(scores.dtype) / torch.arange(1, scores.shape[1] + 1, device=scores.device)
    return ratio((precision.gather(1, last) * positive).sum(1), positive.sum(1))  # each positive at its threshold


def pair_scores(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Compute how much of the maps of two classes `[N, 2, h, w]` lies on their own and on the other object, bool `[N, 2, H, W]`.

    Returns:
        `[N, 2]` each, with `own_` and `other_`: `hit`, whether the peak lies on the object; `energy`, the share of the positive
        mass on it; `area`, the share of the image that the object covers, which is the energy of a constant map.
    """
    scores = {}
    for name, targets in (("own", masks), ("other", masks.flip(1))):
        scores[f"{name}_hit"] = pointing(maps.flatten(0, 1), targets.flatten(0, 1)).view(-1, 2)
        scores[f"{name}_energy"] = energy(maps.flatten(0, 1), targets.flatten(0, 1)).view(-1, 2)
        scores[f"{name}_area"] = targets.sum((-2, -1)) / masks[0, 0].numel()
    return scores


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return `part / whole`, and 0 where the whole is 0; counts become float32."""
    part, whole = (x if x.is_floating_point() else x.float() for x in (part, whole))
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, torch.ones_like(whole)), torch.zeros_like(part))


def group_ends(ordered: Tensor) -> Tensor:
    """Return the index of the last of its equals for each value of sorted rows `[N, M]`."""
    count = ordered.shape[1]
    index = torch.arange(count, device=ordered.device).expand_as(ordered)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    return index.masked_fill(~is_last, count).flip(1).cummin(1).values.flip(1)


def _flat(maps: Tensor, masks: Tensor, ranked: bool = False) -> tuple[Tensor, Tensor]:
    """Return enlarged maps (scaled if only their ranks matter) and the pixels of the masks: `[N, H*W]` each."""
    if masks.dtype != torch.bool or masks.dim() != 3 or len(masks) != len(maps):
        raise ValueError(f"masks must be bool [{len(maps)}, H, W], one for each map, not {masks.dtype} {list(masks.shape)}")
    size = (masks.shape[1], masks.shape[2])
    check(maps)
    return enlarge(_unit_range(maps) if ranked else maps, size).flatten(1), masks.flatten(1)


def _unit_range(maps: Tensor) -> Tensor:
    """Scale each map to 0..1 at its own grid: ranks stay, and a constant becomes exactly 0, which enlarging would blur."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    constant = high - low <= CONSTANT * torch.maximum(high.abs(), low.abs())
    return ((maps - low) / torch.where(constant, torch.ones_like(low), high - low)).masked_fill(constant, 0)
