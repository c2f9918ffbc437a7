"""The model's own maps on its feature grid: cross-attention, rollout, relevance, and what a cell adds to the logit.

All take a model in evaluation mode, images float `[B, 3, H, W]`, normalised, one class index per image `[B]`, and a padding mask
bool `[B, H, W]`, True on padding, or None.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.methods.hooks import chunked, class_attention, gradients_of, record
from models import ICN


@chunked
@torch.no_grad()
def attention(
    model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, layer: int = -1, head: int | None = None
) -> Tensor:
    """Return the cross-attention of one decoder layer for the query of a class (INTR, Paul et al., ICLR 2024).

    Args:
        layer: decoder layer, negative from the end.
        head: one head of it; None for the mean of all.

    Returns:
        float32 `[B, h, w]`, non-negative, sums to 1 over the valid cells of the feature grid and is 0 on padding.

    Raises:
        ValueError: the layer or the head does not exist, or the decoder has no attention.
    """
    maps = class_attention(model, images, padding_mask, lambda logits: classes[:, None], layer)[1][:, 0]  # [B, heads, h, w]
    heads = maps.shape[1]
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head {head} does not exist: this model has {heads} heads, 0 to {heads - 1}")
    return (maps.mean(1) if head is None else maps[:, head]).float()


@chunked
@torch.no_grad()
def rollout(
    model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, every_class: bool = False
) -> Tensor:
    """Compute attention rollout (Abnar and Zuidema, ACL 2020, eq. 1) through encoder, query self-attention and cross-attention.

    Of each layer the mean over heads A becomes 0.5 (A + I) with rows that sum to 1, the half being the residual path; the
    product of all layers is the share of a query that comes from each cell. The share that stays with the queries is left out.

    Args:
        every_class: return the mean of the maps of all classes whatever `classes` is: a control without class information.

    Returns:
        float32 `[B, h, w]`, non-negative, sums to 1, 0 on padding.
    """
    recorded = record(model, images, padding_mask, gradients=False)
    with torch.autocast(images.device.type, enabled=False):
        memory: Tensor | None = None  # share of each input cell in each cell of the memory, [B, h*w, h*w]
        for layer in recorded.encoder:
            weights = layer.weights.mean(1)
            memory = _identity(weights) if memory is None else memory
            memory = 0.5 * (weights @ memory + memory)  # rows of A sum to 1, so that those of the result do
        queries: Tensor = torch.zeros_like(recorded.cross[0].weights[:, 0], dtype=torch.float32)  # [B, C, h*w]
        for index, layer in enumerate(recorded.cross):
            if recorded.queries:
                queries = 0.5 * (recorded.queries[index].weights.mean(1) @ queries + queries)
            weights = layer.weights.mean(1)  # [B, C, h*w]
            queries = 0.5 * (queries + (weights if memory is None else weights @ memory))
        maps = queries / queries.sum(-1, keepdim=True)
        chosen = maps.mean(1) if every_class else maps[torch.arange(len(classes), device=classes.device), classes]  # [B, h*w]
        return chosen.unflatten(1, recorded.grid)


@chunked
def relevance(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Compute generic attention relevance of an encoder-decoder (Chefer et al., ICCV 2021, eq. 5 to 11).

    Of each layer `A' = mean over heads of (dlogit/dA * A)+` (5). With s the queries and i the image, R_ii and R_ss start as
    identity, R_si as zero. Encoder: `R_ii += A' R_ii` (6). Queries: `R_si += A' R_si` (7), `R_ss += A' R_ss` (6).
    Cross-attention: `R_si += N(R_ss)^T A' N(R_ii)` (10), where N divides the rows of R - I by their sums and adds I (8, 9).
    A row of R that is still the identity's would be divided 0 by 0, as all are without encoder layers: it stays.
    Rule (11), attention from the image to the queries, does not occur here.

    Returns:
        float32 `[B, h, w]`, non-negative, 0 on padding.
    """
    recorded = record(model, images, padding_mask)
    layers = [*recorded.encoder, *recorded.queries, *recorded.cross]
    gradients = gradients_of(recorded, classes, [layer.tracked for layer in layers])
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        products = (gradient.view_as(layer.weights) * layer.weights for layer, gradient in zip(layers, gradients, strict=True))
        positive = [product.clamp(min=0).mean(1) for product in products]  # A' [B, N, S]
        encoder, rest = positive[: len(recorded.encoder)], positive[len(recorded.encoder) :]
        queries, cross = rest[: len(recorded.queries)], rest[len(recorded.queries) :]
        image_image: Tensor | None = None  # R_ii [B, h*w, h*w]; None is the identity
        for layer in encoder:
            image_image = _identity(layer) + layer if image_image is None else image_image + layer @ image_image
        image_image = None if image_image is None else _normalised(image_image)
        query_query: Tensor | None = None  # R_ss [B, C, C]
        query_image = torch.zeros_like(cross[0])  # R_si [B, C, h*w]
        for index, layer in enumerate(cross):
            if queries:
                own = queries[index]
                query_image = query_image + own @ query_image
                query_query = _identity(own) + own if query_query is None else query_query + own @ query_query
            if image_image is not None:
                layer = layer @ image_image
            query_image = query_image + (layer if query_query is None else _normalised(query_query).transpose(1, 2) @ layer)
        maps = query_image[torch.arange(len(classes), device=classes.device), classes]  # [B, h*w]
    return maps.unflatten(1, recorded.grid)


@torch.no_grad()
def additive(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Return what each cell adds to the logit of an additive decoder: with the bias, the sum of the map is the logit.

    With the average decoder the map is CAM (Zhou et al., CVPR 2016, eq. 2).

    Returns:
        float32 `[B, h, w]`, signed, 0 on padding.

    Raises:
        ValueError: the decoder is not additive.
    """
    _check_additive(model, "additive")
    return model.evidence(images, padding_mask, classes[:, None])[1][:, 0].float()


def _check_additive(model: ICN, name: str) -> None:
    if not model.decoder_spec.is_additive:
        raise ValueError(f"{name} is no map of --decoder {model.decoder_name}: use {model.decoder_spec.default_map}")


@chunked
@torch.no_grad()
def additive_softmax(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Weight the positive evidence of each cell by how far the class leads there: a softmax over the classes of a cell.

    After VAR (Walter, Vreeken and Fischer, arXiv 2503.07346), which distributes what a place says among the classes:
    `max(E_c, 0) * max(softmax_c(E / s) - 1/C, 0)`, with s the standard deviation of the image's evidence over classes and
    cells. Evidence that a cell has for all classes alike counts for none. It does not sum to the logit: `additive` does.

    Returns:
        float32 `[B, h, w]`, non-negative, 0 on padding.

    Raises:
        ValueError: the decoder is not additive.
    """
    _check_additive(model, "additive_softmax")
    evidence = model.evidence(images, padding_mask)[1].float()  # [B, C, h, w]
    values = (evidence != 0).any(1).flatten(1).sum(1) * model.num_classes  # [B]: padding, which is 0, has no part in s
    mean, square = (x.flatten(1).sum(1) / values.clamp(min=1) for x in (evidence, evidence.square()))
    scale = (square - mean.square()).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    share = (evidence / scale[:, None, None, None]).softmax(1)
    rows = torch.arange(len(classes), device=classes.device)
    return evidence[rows, classes].clamp(min=0) * (share[rows, classes] - 1 / model.num_classes).clamp(min=0)


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


def _normalised(relevance: Tensor) -> Tensor:
    """Normalise relevance `[B, n, n]` by equations 8 and 9; rows of the identity stay as they are."""
    identity = _identity(relevance)
    rest = relevance - identity
    total = rest.sum(-1, keepdim=True)
    return rest / torch.where(total > 0, total, 1) + identity


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], device=like.device).expand_as(like)
