"""Locality loss: evidence may depend on the pixels of its own cell only.

The receptive fields of deep features overlap, so that a network can move the evidence of an object to other cells. A part of
another image is pasted in: evidence of cells outside it should not change, evidence inside it should be that of the other image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.icn import ICN

SMALLEST, LARGEST = 1 / 4, 3 / 4  # sides of the pasted rectangle, as shares of the image's; it may reach over the border


def locality_loss(model: ICN, images: Tensor, evidence: Tensor) -> Tensor:
    """Compute how far evidence depends on pixels elsewhere.

    The mean square of its change in cells whose own pixels are all of one image, over the variance of the evidence between the
    classes. It is 0 for a mean decoder on features of one cell each; attention weights, normalised over all cells, leave a
    little.

    Args:
        model: with an additive decoder, and without learned batch norms, which would mix the images of a batch.
        images: float `[B, 3, H, W]`, normalised, without padding. Each gets a part of the one before it in the batch.
        evidence: of all classes for `images`, `[B, C, h, w]`, with its graph.

    Returns:
        A scalar. The variance has no gradient: larger evidence is not rewarded.
    """
    pasted = _random_rectangle(images.shape[-2], images.shape[-1]).to(images.device)  # [H, W]
    changed = model.evidence(torch.where(pasted, images.roll(1, 0), images))[1]  # [B, C, h, w]
    stride: int = model.backbone[0].stride  # type: ignore[assignment]
    # Cells reach over the border where the side is no multiple of the stride: hence the ceiling.
    touched, untouched = (F.max_pool2d(x.to(images.dtype)[None], stride, ceil_mode=True)[0] > 0 for x in (pasted, ~pasted))
    outside, inside = ~touched, ~untouched  # [h, w]
    distance = ((changed - evidence).square() * outside).sum() + ((changed - evidence.roll(1, 0)).square() * inside).sum()
    compared = (outside.sum() + inside.sum()).clamp(min=1) * evidence.shape[0] * evidence.shape[1]
    variance = (evidence - evidence.mean(1, keepdim=True)).square().mean().detach()
    return distance / compared / variance.clamp(min=torch.finfo(variance.dtype).tiny)


def _random_rectangle(height: int, width: int) -> Tensor:
    """Return a bool `[H, W]`: True in a random rectangle or, as often, outside it."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    sides = []
    for length in (height, width):
        side = int(torch.randint(max(1, round(SMALLEST * length)), round(LARGEST * length) + 1, ()))
        start = int(torch.randint(-(side // 2), length - side // 2, ()))
        sides.append(slice(max(start, 0), start + side))
    inside[sides[0], sides[1]] = True
    return inside if torch.rand(()) < 0.5 else ~inside
