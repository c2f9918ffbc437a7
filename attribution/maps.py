"""The model's own maps: where each class query looked."""

from __future__ import annotations

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


def attention_map(
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
        `[B, h, w]`, non-negative, sums to 1 over the valid cells of the feature grid and is 0 on padding.

    Raises:
        ValueError: the layer or the head does not exist.
    """
    attention = model(images, padding_mask, attention=layer).attention[0]  # [B, heads, C, h, w]
    heads = attention.shape[1]
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head {head} does not exist: this model has {heads} heads, 0 to {heads - 1}")
    maps = class_maps(attention, classes[:, None])[:, 0]  # [B, heads, h, w]
    return maps.mean(1) if head is None else maps[:, head]
