"""Metrics on parts of a picture, after FunnyBirds (Hesse, Schaub-Meyer, Roth, ICCV 2023), by lookup in a `RemovalTable`.

What is theirs: the importance of a part is the mass of the map on it; the definitions of SD, PC, DC and TS. What differs:
- a part is removed by rendering the scene without it, and its mask is amodal, not the visible part grown by two pixels;
- parts that a picture does not have (a plain wingtip) are left out, not counted as irrelevant;
- thresholds are shares of the positive mass of the map: signed maps may sum to nothing;
- TS intervenes by swapping slots, not by removing parts: the absence of a winglet is evidence, too;
- PC and DC with a threshold reward a map that calls all parts important (theirs are held in check by distractibility).
  `top_k_checks` give every map the same number of parts instead.
In a full factorial every slot is needed: without one of them a classifier must guess between siblings, whichever part it
is, so that PC and DC tell maps apart less than SD, TS and the contrast do.
`importance` is `[N, P]` and signed. Scores are `[N]`, nan where they are undefined; average with `nanmean`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from attribution.planes.counterfactuals import RemovalTable
from attribution.resize import enlarge

THRESHOLDS = torch.linspace(0.01, 0.5, 80)  # FunnyBirds'
IRRELEVANT = 0.05  # a part whose removal lowers the logit by a smaller share of it is irrelevant (FunnyBirds)


def part_importance(maps: Tensor, masks: Tensor) -> Tensor:
    """Signed mass of each map on each part.

    Args:
        maps: `[N, h, w]`.
        masks: bool `[N, P, H, W]`; maps are enlarged to them.

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
    """(1 + Spearman's rho) / 2 between importances and drops `[N, P]` over the `valid` parts.

    nan where fewer than two parts are valid or all drops are equal; 0.5 where all importances are: they say nothing.
    """
    scores = torch.full((len(importance),), torch.nan)
    for n, chosen in enumerate(valid.numpy()):
        claimed, real = (stats.rankdata(values[n].numpy()[chosen]) for values in (importance, drops))
        if len(real) < 2 or np.ptp(real) == 0:
            continue
        scores[n] = 0.5 if np.ptp(claimed) == 0 else 0.5 + 0.5 * float(np.corrcoef(claimed, real)[0, 1])
    return scores


def single_deletion(importance: Tensor, table: RemovalTable, classes: Tensor) -> Tensor:
    """SD: do the importances rank the parts as the drops of the class's logit do, when each is removed alone? `[N]`."""
    return rank_agreement(importance, table.drops(classes), table.present)


def preservation_check(importance: Tensor, table: RemovalTable, thresholds: Tensor = THRESHOLDS) -> Tensor:
    """PC: 1 where the prediction stays when only the parts with an importance above the threshold are kept: `[N, T]`."""
    return _same_prediction(table, importance[:, None] <= thresholds[:, None])


def deletion_check(importance: Tensor, table: RemovalTable, thresholds: Tensor = THRESHOLDS) -> Tensor:
    """DC: 1 where the prediction changes when the parts with an importance above the threshold are removed: `[N, T]`."""
    return 1 - _same_prediction(table, importance[:, None] > thresholds[:, None])


def distractibility(importance: Tensor, table: RemovalTable, classes: Tensor, thresholds: Tensor = THRESHOLDS) -> Tensor:
    """Share of the irrelevant parts that are not called important: `[N, T]`, nan for a picture without irrelevant parts.

    A part is irrelevant if removing it lowers the class's logit by less than 5 % of its size. Shapes in the background are
    no parts here.
    """
    own = table.logits[torch.arange(len(classes)), 0, classes].abs()[:, None]  # [N, 1]
    irrelevant = (table.drops(classes) < IRRELEVANT * own) & table.present  # [N, P]
    called = (importance[:, None] > thresholds[:, None]) & irrelevant[:, None]  # [N, T, P]
    return 1 - called.sum(-1) / torch.where(irrelevant.any(-1), irrelevant.sum(-1), torch.nan)[:, None]


def best_threshold(importance: Tensor, table: RemovalTable, classes: Tensor) -> int:
    """Index of the threshold with the best mean of PC and DC plus distractibility, as FunnyBirds chooses: on these pictures."""
    kept, deleted = preservation_check(importance, table), deletion_check(importance, table)
    undistracted = distractibility(importance, table, classes).nanmean(0).nan_to_num(0.0)
    return int(((kept + deleted).mean(0) / 2 + undistracted).argmax())


def _same_prediction(table: RemovalTable, removed: Tensor) -> Tensor:
    """removed: bool `[N, ..., P]` -> float `[N, ...]`."""
    before = table.logits[:, 0].argmax(-1)  # [N]
    after = table.at(removed).argmax(-1)
    return (after == before.view(-1, *[1] * (after.dim() - 1))).float()


def part_order(importance: Tensor, present: Tensor, descending: bool = True, seed: int = 0) -> Tensor:
    """Parts by importance, `[N, P]`: those that are absent last, ties in random order."""
    shuffle = torch.rand(importance.shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    key = (importance if descending else -importance).gather(-1, shuffle)
    key = key.masked_fill(~present.gather(-1, shuffle), -torch.inf)
    return shuffle.gather(-1, key.argsort(dim=-1, descending=True, stable=True))


def removal_steps(order: Tensor) -> Tensor:
    """Bool `[N, P + 1, P]`: after k steps the first k parts of the order are removed."""
    rank = order.argsort(-1)  # [N, P]
    return rank[:, None] < torch.arange(order.shape[1] + 1)[:, None]


def top_k_checks(importance: Tensor, table: RemovalTable) -> tuple[Tensor, Tensor]:
    """PC and DC without a threshold, each `[N]`.

    The k most important parts are kept (PC: the prediction stays) or removed (DC: it changes); mean over k from 1 to one
    less than the parts that are there. nan for pictures with a single part.
    """
    steps = removal_steps(part_order(importance, table.present))  # [N, P + 1, P]
    inner = torch.arange(steps.shape[1])[None] < table.present.sum(-1, keepdim=True)
    inner[:, 0] = False
    kept, deleted = _same_prediction(table, ~steps), 1 - _same_prediction(table, steps)  # [N, P + 1]
    count = torch.where(inner.any(-1), inner.sum(-1), torch.nan)
    return (kept * inner).sum(-1) / count, (deleted * inner).sum(-1) / count


def deletion_curve(importance: Tensor, table: RemovalTable, classes: Tensor, *, descending: bool = True) -> Tensor:
    """Softmax probability of the class while parts are removed, the most important first: `[N, P + 1]`.

    nan behind the last part that a picture has. `descending=False` removes the least important first.
    """
    return _curve(removal_steps(part_order(importance, table.present, descending)), table, classes)


def insertion_curve(importance: Tensor, table: RemovalTable, classes: Tensor) -> Tensor:
    """The same, from no part at all, while parts are put back, the most important first."""
    return _curve(~removal_steps(part_order(importance, table.present)), table, classes)


def _curve(removed: Tensor, table: RemovalTable, classes: Tensor) -> Tensor:
    probability = table.at(removed).softmax(-1)  # [N, P + 1, C]
    curve = probability[torch.arange(len(classes)), :, classes]
    return curve.masked_fill(torch.arange(curve.shape[1]) > table.present.sum(-1, keepdim=True), torch.nan)


def curve_area(curves: Tensor) -> Tensor:
    """(sum of s - s_0 / 2 - s_n / 2) / n of each curve `[N, P + 1]`, up to its last number: `[N]`; nan if n is 0."""
    last = (~curves.isnan()).sum(-1) - 1  # [N]
    ends = curves[:, 0] + curves.gather(-1, last[:, None])[:, 0]
    return (curves.nansum(-1) - ends / 2) / torch.where(last > 0, last, torch.nan)


def target_sensitivity(mass: Tensor, holds: Tensor) -> Tensor:
    """TS: does the map of a class look at the parts that this class shares with the picture?

    Classes 1 and 2 share disjoint groups of slots, 1 and 2, with the picture. On group 1 the map of class 1 must have more
    mass than that of class 2, and the other way round.

    Args:
        mass: `[N, 2, 2]`, mass of the map of class i on group j.
        holds: bool `[N]`: the model does look there: the logit of class 1 is higher in the scene with group 1 kept and all
            else swapped than in the scene with group 2 kept, and the other way round.

    Returns:
        `[N]`, 0, 0.5 or 1; nan where `holds` is False.
    """
    right = (mass[:, 0, 0] > mass[:, 1, 0]).float() + (mass[:, 1, 1] > mass[:, 0, 1]).float()
    return torch.where(holds, right / 2, torch.nan)
