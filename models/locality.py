"""A part of another picture is pasted in; what the cells outside it say should stay as it was, and it should come along inside.

Deep features mix: without this a class finds its evidence wherever the network has brought it to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models import ICN

SMALLEST, LARGEST = 1 / 4, 3 / 4  # sides of the part, shares of the picture's; it may reach over the border


def locality_loss(model: ICN, images: Tensor, evidence: Tensor) -> Tensor:
    """How far evidence depends on what is elsewhere.

    The mean square of its change in cells whose own pixels are all of one picture, over the mean square of the evidence about
    its mean over the classes (what says the same for all decides nothing). It is 0 for a `none` decoder that looks at each cell
    alone; attention, which is shared out among all cells, leaves a little.

    Args:
        model: of `--decoder additive` or `none`, without learned batch norms, which would mix the pictures of a batch.
        images: float `[B, 3, H, W]`, normalised, without padding. Each gets a part of the one before; a single one gets none.
        evidence: of all classes, `[B, C, h, w]`, of `images`, with its gradient.

    Returns:
        A scalar. Its scale is taken as given: no gradient rewards louder evidence.
    """
    inside = _part(images.shape[-2], images.shape[-1]).to(images.device)  # [H, W]
    changed = model.evidence(torch.where(inside, images.roll(1, 0), images))[1]
    stride: int = model.backbone[0].stride  # type: ignore[assignment]
    # Cells reach over the border where the side is no multiple of the stride: hence the ceiling.
    touched = [F.max_pool2d(x.to(images.dtype)[None], stride, ceil_mode=True)[0] > 0 for x in (inside, ~inside)]  # [h, w]
    kept, brought = ~touched[0], ~touched[1]
    distance = ((changed - evidence).square() * kept).sum() + ((changed - evidence.roll(1, 0)).square() * brought).sum()
    compared = (kept.sum() + brought.sum()).clamp(min=1) * evidence.shape[0] * evidence.shape[1]
    scale = (evidence - evidence.mean(1, keepdim=True)).square().mean().detach()
    return distance / compared / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def _part(height: int, width: int) -> Tensor:
    """Bool `[H, W]`: True in a random rectangle or, as often, outside it."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    sides = []
    for length in (height, width):
        side = int(torch.randint(max(1, round(SMALLEST * length)), round(LARGEST * length) + 1, ()))
        start = int(torch.randint(-(side // 2), length - side // 2, ()))
        sides.append(slice(max(start, 0), start + side))
    inside[sides[0], sides[1]] = True
    return inside if torch.rand(()) < 0.5 else ~inside
