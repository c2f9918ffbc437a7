"""What the value of each place added to the logit, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.methods.hooks import chunked, gradients_of, record
from models import ICN


@chunked
def contribution(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    padding_mask: Tensor | None = None,
    layer: int | None = None,
    own_query: bool = False,
) -> Tensor:
    """Attention times value times gradient: `sum over layers, heads h and queries n of A[h,n,p] <dlogit/dz[h,n], V[h,p]>`.

    z = A V is what a head found. Were the share of place p in it larger by a small factor 1 + e, everywhere, the logit would
    change by e times the map at p. The sign says whether the place speaks for the class or against it.

    Args:
        model: in evaluation mode, with DETR's decoder; an additive one has this map exactly: `maps.additive`.
        images: float `[B, 3, H, W]`, normalised.
        classes: one class index per image, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        layer: one decoder layer, negative from the end; None for the sum of all.
        own_query: leave out what the other queries found and passed on.

    Returns:
        float32 `[B, h, w]`, signed, 0 on padding.

    Raises:
        ValueError: the layer does not exist, or the decoder is another.
    """
    if not model.decoder_spec.is_layered:
        raise ValueError(
            f"contribution is a map of layered decoders; with --decoder {model.decoder_name} use {model.decoder_spec.default_map}"
        )
    depth = model.num_decoder_layers
    if layer is not None and not -depth <= layer < depth:
        raise ValueError(f"decoder layer {layer} does not exist: this model has {depth}, numbered 0 to {depth - 1}")
    seen = record(model, images, padding_mask, encoder=False, queries=False)
    looks = seen.cross if layer is None else [seen.cross[layer]]
    slopes = gradients_of(seen, classes, [look.found for look in looks if look.found is not None])
    total = torch.zeros(len(images), seen.grid[0] * seen.grid[1], device=images.device)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for look, slope in zip(looks, slopes, strict=True):
            assert look.values is not None
            weights, values = look.weights, look.values.float()  # [B, heads, C, S], [B, heads, S, d]
            slope = slope.float().unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)  # [B, heads, C, d]
            if own_query:
                each = torch.arange(len(classes), device=classes.device)
                weights, slope = weights[each, :, classes, None], slope[each, :, classes, None]
            # Queries are summed before values are read: no [B, heads, C, S] beside the weights.
            pull = weights.float().transpose(-2, -1) @ slope  # [B, heads, S, d]
            total += (pull * values).sum((1, 3))
    return total.unflatten(1, seen.grid)
