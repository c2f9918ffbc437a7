"""Metrics of a model: reliance on attention, locality of cells, diversity of heads, and randomisation of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor

from attribution.methods.hooks import Replacement, class_attention, frozen, logits_with_attention, uniform_attention
from attribution.metrics.metric import Columns, ModelBatch
from attribution.metrics.robustness import head_diversity, spearman
from models import ICN

MAX_CORRELATION = 0.3  # a map fails if its rank correlation with the trained model's stays above this when all weights are random
STAGES = {  # of the cascade, and how the names of their parameters begin
    "head": ("presence_vector.",), "decoder": ("transformer.decoder.",), "queries": ("query_embed.",),
    "encoder": ("transformer.encoder.", "input_proj."), "backbone": ("backbone.",),
}  # fmt: skip


@torch.no_grad()
def reliance(model: ICN, images: Tensor, labels: Tensor, *, padding_mask: Tensor | None = None, seed: int = 0) -> Columns:
    """Compute the accuracy with replaced cross-attention: where it survives, the attention explains nothing.

    The cross-attention of all decoder layers is replaced at once, each time by: `uniform` weights; those of `other_image` of
    the batch, half a batch away; those of `other_class`, by a permutation of the classes that leaves none in its place.

    Returns:
        1 where the prediction is right, the one of `labels`, 0 where it is wrong, `[B]`, with the model's attention
        (`clean`) and for each replacement. nan for `other_image` in a batch of one.
    """
    if model.num_decoder_layers == 0:
        raise ValueError(f"reliance is measured on attention, which --decoder {model.decoder_name} does not have")
    replacements: dict[str, Replacement] = {
        "uniform": uniform_attention,
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


def derangement(count: int, seed: int = 0) -> Tensor:
    """Return a random derangement of `count` indices, one cycle: a permutation without a fixed point, unless `count` is 1."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def locality(model: ICN, images: Tensor, *, cells: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Compute the share of the gradient energy of a cell of the memory that lies on the cell's own patch.

    The energy of pixel x for cell p is the squared norm of d m_p / d x, estimated without bias by the gradient of a random
    +-1 projection of m_p.

    Returns:
        Means over `cells` random cells of each image, `[B]`: `own`, the share on the cell's own patch; `ring`, on it and the
        cells around it; `own_area` and `ring_area`, the shares of the image that these cover, for a cell without locality.
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
    """Compute the diversity of the heads of the last cross-attention for a class: `robustness.head_diversity`, `[B]`."""
    return head_diversity(class_attention(model, images, padding_mask, lambda logits: classes[:, None])[1][:, 0])


def stage_of(name: str) -> str:
    return next(stage for stage, starts in STAGES.items() if name.startswith(starts))


def learned(model: ICN, stage: str) -> dict[str, Tensor]:
    """Return the learned tensors of a stage: its parameters, and the scale and shift of frozen norms."""
    fixed = {name: x for name, x in model.named_buffers() if name.endswith((".weight", ".bias")) and x.is_floating_point()}
    return {name: x for name, x in {**dict(model.named_parameters()), **fixed}.items() if stage_of(name) == stage}


@torch.no_grad()
def randomise(model: ICN, stage: str, generator: torch.Generator) -> None:
    """Draw the tensors of a stage anew, in place: normal, of the mean and spread that their values have.

    With the scale of the trained weights the signals stay in their range; where all values of a tensor are (nearly) equal,
    as in the norms of a model at the start of training, the spread is a tenth of their size.
    """
    for tensor in learned(model, stage).values():
        mean, spread = tensor.mean(), tensor.std(correction=0)
        spread = torch.maximum(spread, 0.1 * mean.abs()).clamp(min=0.01)
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        tensor.copy_(mean + spread * noise)


def cascade(model: ICN, seed: int = 0) -> Iterator[tuple[str, ICN]]:
    """Yield each stage and a copy of the model in which its weights and those of the stages before it are random.

    Cascading model parameter randomisation (Adebayo et al., NeurIPS 2018), from the head down.
    """
    copy, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    for stage in STAGES:
        if learned(copy, stage):
            randomise(copy, stage, generator)
            yield stage, copy


def agreement(maps: Tensor, others: Tensor) -> Tensor:
    """Return the rank correlation of two maps of one image, `[N]`; 0 for a map that is not finite, from a random network."""
    finite = others.isfinite().flatten(1).all(1)
    return spearman(maps, others.nan_to_num(0, 0, 0)) * finite


def passes_sanity_check(correlations: Tensor) -> bool:
    """Return whether the mean rank correlation `[N]` of the fully random model's maps with the trained one's is small."""
    return bool(correlations.mean().abs() <= MAX_CORRELATION)


def randomisation(batch: ModelBatch) -> dict[str, Columns]:
    """Compute for each method the agreement of its maps with the trained model's after each stage, `randomisation/<method>`."""
    trained = {name: explain(None) for name, explain in batch.explain.items()}
    columns: dict[str, Columns] = {f"randomisation/{name}": {} for name in trained}
    for stage, model in cascade(batch.model, batch.seed):
        for name, explain in batch.explain.items():
            columns[f"randomisation/{name}"][stage] = agreement(trained[name], explain(model))
    return columns
