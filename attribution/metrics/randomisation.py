"""Model parameter randomisation, cascading (Adebayo et al., NeurIPS 2018): weights are drawn anew, the head first."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor

from attribution.metrics.batch import Columns, ModelBatch
from attribution.metrics.robustness import spearman
from models import ICN

STAGES = ("head", "decoder", "queries", "encoder", "backbone")
PASS = 0.3  # a map fails if its rank correlation with the trained model's stays above this when all weights are random

_PLACES = {
    "presence_vector.": "head",
    "transformer.decoder.": "decoder",
    "query_embed.": "queries",
    "transformer.encoder.": "encoder",
    "input_proj.": "encoder",
    "backbone.": "backbone",
}


def stage_of(name: str) -> str:
    """Return the stage that a parameter of an ICN belongs to."""
    return next(stage for start, stage in _PLACES.items() if name.startswith(start))


def learned(model: ICN, stage: str) -> dict[str, Tensor]:
    """Return all learned tensors of a stage: its parameters, and the scale and shift of frozen norms."""
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
    """Yield (stage, model) from the head down: copies of a model with the weights of the stage and of those before it random."""
    copy, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    for stage in STAGES:
        if learned(copy, stage):
            randomise(copy, stage, generator)
            yield stage, copy


def agreement(maps: Tensor, others: Tensor) -> Tensor:
    """Return the rank correlation of two maps of one image, `[N]`; 0 for a map that is not finite, from a random network."""
    finite = others.isfinite().flatten(1).all(1)
    return spearman(maps, others.nan_to_num(0, 0, 0)) * finite


def passes(correlations: Tensor) -> bool:
    """Return whether the mean rank correlation `[N]` of the fully random model's maps with the trained one's is within `PASS`."""
    return bool(correlations.mean().abs() <= PASS)


def randomisation_columns(batch: ModelBatch) -> dict[str, Columns]:
    """Compute for each method the agreement of its maps with the trained model's after each stage, `randomisation/<method>`."""
    trained = {name: explain(None) for name, explain in batch.explain.items()}
    columns: dict[str, Columns] = {f"randomisation/{name}": {} for name in trained}
    for stage, model in cascade(batch.model, batch.seed):
        for name, explain in batch.explain.items():
            columns[f"randomisation/{name}"][stage] = agreement(trained[name], explain(model))
    return columns
