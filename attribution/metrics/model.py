"""Metrics of a model, whatever map is drawn of it: reliance on attention, locality of its cells, diversity of heads."""

from __future__ import annotations

import torch
from torch import Tensor

from attribution.methods.attention import class_maps
from attribution.methods.hooks import Replacement, frozen, logits_with_attention
from attribution.metrics.batch import Columns, ModelBatch
from attribution.metrics.robustness import head_diversity
from models import ICN


@torch.no_grad()
def reliance(
    model: ICN, images: Tensor, labels: Tensor, *, padding_mask: Tensor | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Compute the accuracy with replaced cross-attention: where it survives, the attention explains nothing.

    The cross-attention of all decoder layers is replaced at once, each time by: `uniform` weights; those of `other_image` of
    the batch, half a batch away; those of `other_class`, by a permutation of the classes that leaves none in its place.

    Args:
        model: in evaluation mode, with a decoder that has attention.
        images: float `[B, 3, H, W]`, normalised.
        labels: the true classes, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        seed: of the permutation.

    Returns:
        1 where the prediction is right, 0 where it is wrong, `[B]`, with the model's attention (`clean`) and for each
        replacement. nan for `other_image` in a batch of one.

    Raises:
        ValueError: the decoder has no attention.
    """
    if model.num_decoder_layers == 0:
        raise ValueError(f"reliance is measured on attention, which --decoder {model.decoder_name} does not have")
    replacements: dict[str, Replacement] = {
        "uniform": _uniform,
        "other_image": lambda weights, valid: weights.roll(len(weights) // 2, 0),
        "other_class": lambda weights, valid: weights[:, :, derangement(weights.shape[2], seed).to(weights.device)],
    }
    right = {"clean": (model(images, padding_mask).logits.argmax(1) == labels).float()}
    for name, replacement in replacements.items():
        logits = logits_with_attention(model, images, padding_mask, replacement=replacement)
        right[name] = (logits.argmax(1) == labels).float()
    if len(images) == 1:
        right["other_image"] = torch.full_like(right["clean"], torch.nan)
    return right


def _uniform(weights: Tensor, valid: Tensor | None) -> Tensor:
    even = torch.ones_like(weights) if valid is None else valid.expand_as(weights).to(weights)
    return even / even.sum(-1, keepdim=True)


def derangement(count: int, seed: int = 0) -> Tensor:
    """Return a random derangement of `count` indices, one cycle: a permutation without a fixed point, unless `count` is 1."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def locality(model: ICN, images: Tensor, *, cells: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Compute the share of the gradient energy of a cell of the memory that lies on the cell's own patch.

    The energy of pixel x for cell p is the squared norm of d m_p / d x, estimated without bias by the gradient of a random
    +-1 projection of m_p.

    Args:
        model: in evaluation mode.
        images: float `[B, 3, H, W]`, normalised, not padded.
        cells: drawn at random for each image.
        seed: of cells and projections.

    Returns:
        Means over the cells, `[B]`: `own`, the share on the cell's own patch; `ring`, on it and the cells around it; and
        `own_area` and `ring_area`, the shares of the image that these cover, the score of a cell without locality.
    """
    generator = torch.Generator().manual_seed(seed)
    with frozen(model):
        pixels = images.detach().clone().requires_grad_()
        memory = model(pixels).features.float()  # [B, D, h, w]
        (batch, _, height, width), drawn = memory.shape, []
        rows, columns = (
            torch.arange(side, device=images.device) * count // side  # the cell that a pixel lies in
            for side, count in zip(images.shape[2:], (height, width), strict=True)
        )
        for _ in range(cells):
            place = torch.randint(height * width, (batch,), generator=generator).to(images.device)
            signs = (torch.randint(2, memory.shape[:2], generator=generator) * 2 - 1).to(memory)
            score = (memory.flatten(2)[torch.arange(batch, device=images.device), :, place] * signs).sum()
            (slope,) = torch.autograd.grad(score, pixels, retain_graph=True)
            energy = slope.double().square().sum(1)  # [B, H, W]
            total = energy.sum((1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
            down = (rows - (place // width)[:, None]).abs()  # [B, H], distance in cells
            across = (columns - (place % width)[:, None]).abs()  # [B, W]
            scores = {}
            for name, reach in (("own", 0), ("ring", 1)):
                near = (down <= reach)[:, :, None] & (across <= reach)[:, None]
                scores[name] = (energy * near).sum((1, 2)) / total
                scores[f"{name}_area"] = near.double().mean((1, 2))
            drawn.append(scores)
    return {name: torch.stack([scores[name] for scores in drawn]).mean(0).float() for name in drawn[0]}


@torch.no_grad()
def diversity(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Compute the diversity of the heads of the last cross-attention for a class: `robustness.head_diversity`, `[B]`.

    Raises:
        ValueError: the decoder has no attention.
    """
    attention = model(images, padding_mask, attention=-1).attention[0]  # [B, heads, C, h, w]
    return head_diversity(class_maps(attention, classes[:, None])[:, 0])


def has_attention(model: ICN) -> bool:
    """Return whether the decoder has cross-attention."""
    return model.num_decoder_layers > 0


def reliance_columns(batch: ModelBatch) -> dict[str, Columns]:
    """Compute `reliance` of labelled images."""
    return {"reliance": reliance(batch.inference, batch.images, batch.classes, seed=batch.seed)}


def locality_columns(batch: ModelBatch) -> dict[str, Columns]:
    """Compute `locality` on as many cells as the budget says."""
    return {"locality": locality(batch.model, batch.images, cells=batch.budget["locality_cells"], seed=batch.seed)}


def diversity_columns(batch: ModelBatch) -> dict[str, Columns]:
    """Compute `diversity` for the predicted classes."""
    return {"head_diversity": {"jsd": diversity(batch.inference, batch.images, batch.classes)}}
