"""Part metrics after FunnyBirds (Hesse, Schaub-Meyer, Roth, ICCV 2023), by lookup in a `RemovalTable`.

The importance of a part is the mass of the map on it; SD, PC, DC and TS are defined as in the paper, but for these differences:
- a part is removed by rendering the scene without it, and its mask is amodal, not the visible part grown by two pixels;
- parts that an image does not have (a plain wingtip) are left out, not counted as irrelevant;
- PC and DC keep or remove the k most important parts, for every k, not all above a threshold, which rewards a map that calls all
  parts important;
- TS intervenes by swapping slots, not by removing parts: the absence of a winglet is evidence, too.
In a full factorial every slot is needed: without one of them a classifier must guess between siblings, whichever part it
is, so that PC and DC separate maps less than SD, TS and the contrast do.
`importance` is `[N, P]` and signed. Scores are `[N]`, nan where they are undefined; average with `nanmean`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from attribution.planes.ground_truth import RemovalTable
from attribution.resize import enlarge
from models.losses import class_probabilities


def part_importance(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the signed mass of maps `[N, h, w]`, enlarged, on the parts with the masks bool `[N, P, H, W]`.

    Returns:
        `[N, P]`, in shares of the map's positive mass (of its absolute mass where nothing is positive); 0 for a map of 0.
    """
    size = (masks.shape[-2], masks.shape[-1])
    large = enlarge(maps, size)  # [N, H, W]
    positive, absolute = (enlarge(part, size).sum((-2, -1)) for part in (maps.clamp(min=0), maps.abs()))
    total = torch.where(positive > 0, positive, absolute)[:, None]
    mass = torch.einsum("nhw,nphw->np", large, masks.to(large.dtype))
    return torch.where(total > 0, mass / total, 0)


def rank_agreement(importance: Tensor, drops: Tensor, valid: Tensor) -> Tensor:
    """Compute (1 + Spearman's rho) / 2 between importances and drops `[N, P]` over the `valid` parts.

    nan where fewer than two parts are valid or all drops are equal; 0.5 where all importances are equal.
    """
    scores = torch.full((len(importance),), torch.nan)
    for n, chosen in enumerate(valid.numpy()):
        claimed, real = (stats.rankdata(values[n].numpy()[chosen]) for values in (importance, drops))
        if len(real) < 2 or np.ptp(real) == 0:
            continue
        scores[n] = 0.5 if np.ptp(claimed) == 0 else 0.5 + 0.5 * float(np.corrcoef(claimed, real)[0, 1])
    return scores


def single_deletion(importance: Tensor, table: RemovalTable, classes: Tensor) -> Tensor:
    """Compute SD, the rank agreement of the importances and the drops of the logit when each part is removed alone: `[N]`."""
    return rank_agreement(importance, table.drops(classes), table.present)


def _same_prediction(table: RemovalTable, removed: Tensor) -> Tensor:
    """Return 1 where the prediction stays without the parts `removed`, bool `[N, ..., P]`, else 0: `[N, ...]`."""
    before = table.logits[:, 0].argmax(-1)  # [N]
    after = table.logits_without(removed).argmax(-1)
    return (after == before.view(-1, *[1] * (after.dim() - 1))).float()


def part_order(importance: Tensor, present: Tensor, descending: bool = True, seed: int = 0) -> Tensor:
    """Sort the parts by importance, `[N, P]`: absent parts last, ties in random order."""
    shuffle = torch.rand(importance.shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    key = (importance if descending else -importance).gather(-1, shuffle)
    key = key.masked_fill(~present.gather(-1, shuffle), -torch.inf)
    return shuffle.gather(-1, key.argsort(dim=-1, descending=True, stable=True))


def removal_steps(order: Tensor) -> Tensor:
    """Return the parts that are removed after k steps, the first k of the order: bool `[N, P + 1, P]`."""
    rank = order.argsort(-1)  # [N, P]
    return rank[:, None] < torch.arange(order.shape[1] + 1)[:, None]


def top_k_checks(importance: Tensor, table: RemovalTable) -> tuple[Tensor, Tensor]:
    """Compute PC and DC, each `[N]`.

    The k most important parts are kept (PC: the prediction stays) or removed (DC: it changes); mean over k from 1 to one
    less than the number of present parts. nan for images with a single part.
    """
    steps = removal_steps(part_order(importance, table.present))  # [N, P + 1, P]
    inner = torch.arange(steps.shape[1])[None] < table.present.sum(-1, keepdim=True)
    inner[:, 0] = False
    kept, deleted = _same_prediction(table, ~steps), 1 - _same_prediction(table, steps)  # [N, P + 1]
    count = torch.where(inner.any(-1), inner.sum(-1), torch.nan)
    return (kept * inner).sum(-1) / count, (deleted * inner).sum(-1) / count


def prediction_scores(importance: Tensor, table: RemovalTable, classes: Tensor) -> dict[str, Tensor]:
    """Compute `pc`, `dc` and the part-wise `part_deletion`, `part_srg` and `part_insertion`, each `[N]`."""
    preserved, deleted = top_k_checks(importance, table)
    most, least = (curve_area(removal_curve(importance, table, classes, descending=order)) for order in (True, False))
    insertion = curve_area(removal_curve(importance, table, classes, insert=True))
    return {"pc": preserved, "dc": deleted, "part_deletion": most, "part_srg": least - most, "part_insertion": insertion}


def removal_curve(
    importance: Tensor, table: RemovalTable, classes: Tensor, *, descending: bool = True, insert: bool = False
) -> Tensor:
    """Compute the probability of the class while parts are removed (or put back), the most important first: `[N, P + 1]`.

    nan behind the last part that an image has. `descending=False`: the least important first.
    """
    removed = removal_steps(part_order(importance, table.present, descending)) ^ insert
    probability = class_probabilities(table.logits_without(removed), table.loss)  # [N, P + 1, C]
    curve = probability[torch.arange(len(classes)), :, classes]
    return curve.masked_fill(torch.arange(curve.shape[1]) > table.present.sum(-1, keepdim=True), torch.nan)


def curve_area(curves: Tensor) -> Tensor:
    """Return the area (sum of s - s_0 / 2 - s_n / 2) / n of curves `[N, P + 1]` up to its last number: `[N]`, nan if n is 0."""
    last = (~curves.isnan()).sum(-1) - 1  # [N]
    ends = curves[:, 0] + curves.gather(-1, last[:, None])[:, 0]
    return (curves.nansum(-1) - ends / 2) / torch.where(last > 0, last, torch.nan)


def target_sensitivity(mass: Tensor, holds: Tensor) -> Tensor:
    """Compute TS: the map of a class must have its mass on the parts that the class shares with the image.

    Classes 1 and 2 share disjoint groups of slots, 1 and 2, with the image. On group 1 the map of class 1 must have more
    mass than that of class 2, and the other way round. `mass` `[N, 2, 2]` is that of the map of class i on group j.

    Returns:
        `[N]`, 0, 0.5 or 1; nan where `holds`, bool `[N]`, is False: where the model does not rely on these parts.
    """
    right = (mass[:, 0, 0] > mass[:, 1, 0]).float() + (mass[:, 1, 1] > mass[:, 0, 1]).float()
    return torch.where(holds, right / 2, torch.nan)
