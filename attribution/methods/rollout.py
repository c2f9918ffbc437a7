"""Attention rollout: attention followed through all layers, as if nothing but attention happened there."""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.methods.hooks import chunked, record
from models import ICN


@chunked
@torch.no_grad()
def rollout(
    model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, every_class: bool = False
) -> Tensor:
    """Attention rollout (Abnar and Zuidema, ACL 2020, eq. 1) through encoder, query self-attention and cross-attention.

    Of each layer the mean over heads A becomes 0.5 (A + I) with rows that sum to 1, the half being the residual path; the
    product of all layers says which share of a query comes from which cell. What stays with the queries is left out.

    Args:
        model: in evaluation mode, with a decoder that has attention.
        images: float `[B, 3, H, W]`, normalised.
        classes: one class index per image, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        every_class: the mean of the maps of all classes, whatever `classes` says: a control that knows no class.

    Returns:
        float32 `[B, h, w]`, non-negative, sums to 1, 0 on padding.
    """
    seen = record(model, images, padding_mask, gradients=False)
    with torch.autocast(images.device.type, enabled=False):
        memory: Tensor | None = None  # of which input cells each cell of the memory is made, [B, h*w, h*w]
        for look in seen.encoder:
            attention = look.weights.mean(1)
            memory = _half(attention, _identity(attention) if memory is None else memory)
        batch, _, count = seen.cross[0].weights.shape[:3]
        queries: Tensor = images.new_zeros(batch, count, seen.grid[0] * seen.grid[1], dtype=torch.float32)  # [B, C, h*w]
        for layer, look in enumerate(seen.cross):
            if seen.queries:
                queries = _half(seen.queries[layer].weights.mean(1), queries)
            attention = look.weights.mean(1)  # [B, C, h*w]
            queries = 0.5 * (queries + (attention if memory is None else attention @ memory))
        maps = queries / queries.sum(-1, keepdim=True)
        chosen = maps.mean(1) if every_class else maps[torch.arange(batch, device=classes.device), classes]  # [B, h*w]
        return chosen.unflatten(1, seen.grid)


def _half(attention: Tensor, below: Tensor) -> Tensor:
    """0.5 (A + I) on what lies below; the rows of A sum to 1, so those of the sum do."""
    return 0.5 * (attention @ below + below)


def _identity(attention: Tensor) -> Tensor:
    return torch.eye(attention.shape[-1], device=attention.device).expand_as(attention)
