"""Relevance that attention carries: only what speaks for the class is followed through the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.methods.hooks import chunked, gradients_of, record
from models import ICN


@chunked
def relevance(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Generic attention relevance of an encoder-decoder (Chefer et al., ICCV 2021, eq. 5 to 11).

    Of each layer `A' = mean over heads of (dlogit/dA * A)+` (5). With s the queries and i the image, R_ii and R_ss start as
    identity, R_si as zero. Encoder: `R_ii += A' R_ii` (6). Queries: `R_si += A' R_si` (7), `R_ss += A' R_ss` (6).
    Cross-attention: `R_si += N(R_ss)^T A' N(R_ii)` (10), where N divides the rows of R - I by their sums and adds I (8, 9).
    A row of R that is still the identity's would be divided 0 by 0, as all are without encoder layers: it stays.
    Rule (11), the image looking at the queries, has no place here.

    Args:
        model: in evaluation mode, with a decoder that has attention.
        images: float `[B, 3, H, W]`, normalised.
        classes: one class index per image, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.

    Returns:
        float32 `[B, h, w]`, non-negative, 0 on padding.
    """
    seen = record(model, images, padding_mask)
    looks = [*seen.encoder, *seen.queries, *seen.cross]
    slopes = gradients_of(seen, classes, [look.tracked for look in looks])
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        pairs = [(slope.view_as(look.weights), look.weights) for slope, look in zip(slopes, looks, strict=True)]
        spoken = [(slope * weights).clamp(min=0).mean(1) for slope, weights in pairs]  # A' [B, N, S]
        encoder, rest = spoken[: len(seen.encoder)], spoken[len(seen.encoder) :]
        queries, cross = rest[: len(seen.queries)], rest[len(seen.queries) :]
        memory: Tensor | None = None  # R_ii [B, h*w, h*w]; None is the identity
        for layer in encoder:
            memory = _identity(layer) + layer if memory is None else memory + layer @ memory
        if memory is not None:
            memory = _normalised(memory)
        talk: Tensor | None = None  # R_ss [B, C, C]
        found = torch.zeros_like(cross[0])  # R_si [B, C, h*w]
        for index, layer in enumerate(cross):
            if queries:
                own = queries[index]
                found = found + own @ found
                talk = _identity(own) + own if talk is None else talk + own @ talk
            if memory is not None:
                layer = layer @ memory
            found = found + (layer if talk is None else _normalised(talk).transpose(1, 2) @ layer)
        maps = found[torch.arange(len(classes), device=classes.device), classes]  # [B, h*w]
    return maps.unflatten(1, seen.grid)


def _normalised(relevance: Tensor) -> Tensor:
    """Equations 8 and 9, `[B, n, n]`; rows without relevance beside the identity's stay as they are."""
    identity = _identity(relevance)
    beside = relevance - identity
    total = beside.sum(-1, keepdim=True)
    return beside / torch.where(total > 0, total, torch.ones_like(total)) + identity


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], device=like.device).expand_as(like)
