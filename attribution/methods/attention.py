"""The model's own maps that need no gradient: where each class query looked, and what an additive decoder added up."""

from __future__ import annotations

import torch
from torch import Tensor

from models import ICN


def class_maps(attention: Tensor, classes: Tensor) -> Tensor:
    """Select the maps of some classes.

    Args:
        attention: cross-attention of one decoder layer, `[B, heads, C, h, w]`.
        classes: class indices, `[B, Q]`.

    Returns:
        `[B, Q, heads, h, w]`.
    """
    index = classes[:, :, None, None, None].expand(-1, -1, attention.shape[1], *attention.shape[-2:])
    return attention.transpose(1, 2).gather(1, index)


@torch.no_grad()
def attention(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    padding_mask: Tensor | None = None,
    layer: int = -1,
    head: int | None = None,
) -> Tensor:
    """Where the query of a class looked: cross-attention of one decoder layer (INTR, Paul et al., ICLR 2024).

    Args:
        model: in evaluation mode, or dropout thins the map.
        images: float `[B, 3, H, W]`, normalised.
        classes: one class index per image, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        layer: decoder layer, negative from the end.
        head: one head of it; None for the mean of all.

    Returns:
        float32 `[B, h, w]`, non-negative, sums to 1 over the valid cells of the feature grid and is 0 on padding.

    Raises:
        ValueError: the layer or the head does not exist, or the decoder has no attention.
    """
    weights = model(images, padding_mask, attention=layer).attention[0]  # [B, heads, C, h, w]
    heads = weights.shape[1]
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head {head} does not exist: this model has {heads} heads, 0 to {heads - 1}")
    maps = class_maps(weights, classes[:, None])[:, 0]  # [B, heads, h, w]
    return (maps.mean(1) if head is None else maps[:, head]).float()


@torch.no_grad()
def additive(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """What each cell added to the logit: exact, and with the bias its sum is the logit.

    Args:
        model: with an additive decoder, or with none: then the map is CAM (Zhou et al., CVPR 2016, eq. 2).
        images: float `[B, 3, H, W]`, normalised.
        classes: one class index per image, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.

    Returns:
        float32 `[B, h, w]`, signed, 0 on padding.

    Raises:
        ValueError: the decoder does not add.
    """
    if not model.decoder_spec.is_additive:
        raise ValueError(f"additive is no map of --decoder {model.decoder_name}: use {model.decoder_spec.default_map}")
    return model.evidence(images, padding_mask, classes[:, None])[1][:, 0].float()
