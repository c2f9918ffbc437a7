"""Contribution maps: what the value of each cell adds to the logit, exactly or to first order.

Both take a model in evaluation mode, images float `[B, 3, H, W]`, normalised, one class index per image `[B]`, and a padding mask
bool `[B, H, W]`, True on padding, or None.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.methods.hooks import chunked, gradients_of, record
from models import ICN


@torch.no_grad()
def additive(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Return what each cell adds to the logit of an additive decoder: with the bias, the sum of the map is the logit.

    With the average decoder the map is CAM (Zhou et al., CVPR 2016, eq. 2).

    Returns:
        float32 `[B, h, w]`, signed, 0 on padding.

    Raises:
        ValueError: the decoder is not additive.
    """
    if not model.decoder_spec.is_additive:
        raise ValueError(f"additive is no map of --decoder {model.decoder_name}: use {model.decoder_spec.default_map}")
    return model.evidence(images, padding_mask, classes[:, None])[1][:, 0].float()


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
    """Compute attention times value times gradient: `sum over layers, heads h, queries n of A[h,n,p] <dlogit/dz[h,n], V[h,p]>`.

    z = A V is the output of a head. If the share of cell p in it grew by a small factor 1 + e, everywhere, the logit would
    change by e times the map at p. The sign says whether the cell is evidence for or against the class.

    Args:
        layer: one decoder layer, negative from the end; None for the sum of all.
        own_query: leave out the outputs of the other queries, which reach the logit through self-attention.

    Returns:
        float32 `[B, h, w]`, signed, 0 on padding.

    Raises:
        ValueError: the layer does not exist, or the decoder has no layers.
    """
    if not model.decoder_spec.is_layered:
        instead = f"with --decoder {model.decoder_name} use {model.decoder_spec.default_map}"
        raise ValueError(f"contribution is a map of layered decoders; {instead}")
    depth = model.num_decoder_layers
    if layer is not None and not -depth <= layer < depth:
        raise ValueError(f"decoder layer {layer} does not exist: this model has {depth}, numbered 0 to {depth - 1}")
    recorded = record(model, images, padding_mask, encoder=False, queries=False)
    layers = recorded.cross if layer is None else [recorded.cross[layer]]
    head_outputs = [each.head_outputs for each in layers if each.head_outputs is not None]
    maps = torch.zeros(len(images), recorded.grid[0] * recorded.grid[1], device=images.device)
    gradients = gradients_of(recorded, classes, head_outputs)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for each, gradient in zip(layers, gradients, strict=True):
            assert each.values is not None
            weights, values = each.weights, each.values.float()  # [B, heads, C, S], [B, heads, S, d]
            gradient = gradient.float().unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)  # [B, heads, C, d]
            if own_query:
                image = torch.arange(len(classes), device=classes.device)
                weights, gradient = weights[image, :, classes, None], gradient[image, :, classes, None]
            # Queries are summed before the product with the values, which spares another [B, heads, C, S].
            by_value = weights.float().transpose(-2, -1) @ gradient  # [B, heads, S, d]
            maps += (by_value * values).sum((1, 3))
    return maps.unflatten(1, recorded.grid)
