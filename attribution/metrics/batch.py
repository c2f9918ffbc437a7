"""What a metric is computed from: images of one shape, the maps that a method made of them, a model with images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attribution.methods.registry import Method
from attribution.metrics.faithfulness import PixelPerturbation
from attribution.resize import pool_to
from models import ICN

Columns = dict[str, Tensor]  # of metrics: one number per image, [B]


@dataclass
class Unit:
    """Images of one shape that are measured together.

    number: of the unit. rows: the places of its images among all images that are measured.
    images: `[B, 3, H, W]`, normalised. classes: predicted, `[B]`.
    masks: of the objects, bool `[B, H, W]`, empty for an image that has none; None where there are none at all.
    removal_effects: on each part the drop of the logit of `classes` without the part, `[B, H, W]`, or None.
    """

    number: int
    rows: slice
    images: Tensor
    classes: Tensor
    masks: Tensor | None = None
    removal_effects: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> int:
        """Return how many of these images are among the first `count` of all; None for all."""
        return len(self) if count is None else min(len(self), max(0, count - self.rows.start))

    @property
    def ground_truth(self) -> dict[str, Tensor]:
        """The options of methods that know the ground truth."""
        known = {"masks": self.masks, "removal_effects": self.removal_effects}
        return {name: tensor for name, tensor in known.items() if tensor is not None}


@dataclass
class MapBatch:
    """The maps of one method of a unit's images, and what the metrics of maps need beside them.

    Attributes:
        unit: the images. method: what made the maps.
        maps: `[B, h, w]`, pooled to the grid of the model; of pairs `[B, 2, h, w]`. In `at_native()` as the method made them.
        made: maps at the method's own resolution, or None where that is the model's grid (or the method is a control).
        siblings: the class that each predicted class is most confused with, `[B]`.
        budget: sizes of the measurement, the fields of `evaluation.protocol.Budget`.
        seed: of ties and noise.
        costly: the method is spared what needs many maps per image.
        perturbation: the unit's images with pixels replaced by `mean` or `blur`.
        explain: pooled maps `[n, h, w]` of images `[n, 3, H, W]` and classes `[n]`, by the method.
        planes: scores on factorial planes at the resolution of a batch; None for other data.
        native: whether `maps` are at the method's own resolution.
        curves: perturbation curves `[B, steps + 1]`; a metric adds those that are to be drawn.
    """

    unit: Unit
    method: Method
    maps: Tensor
    made: Tensor | None
    siblings: Tensor
    budget: Mapping[str, Any]
    seed: int
    costly: bool
    perturbation: Callable[[str], PixelPerturbation]
    explain: Callable[[Tensor, Tensor], Tensor]
    planes: Callable[[MapBatch], Columns] | None = None
    native: bool = False
    curves: Columns = field(default_factory=dict)

    def at_native(self) -> MapBatch:
        """Return the batch with the maps as the method made them."""
        assert self.made is not None
        return replace(self, maps=self.made, native=True)


@dataclass
class ModelBatch:
    """A model with images, for the metrics of models.

    Attributes:
        model: for gradients. inference: the same for outputs alone, sooner.
        images: `[n, 3, H, W]`, normalised. classes: `[n]`, predicted; the true ones for a metric of labelled images.
        budget: sizes of the measurement, the fields of `evaluation.protocol.Budget`.
        seed: of random choices.
        explain: of each method that is not costly, its maps `[n, h, w]` by another model; by this one for None.
    """

    model: ICN
    inference: ICN
    images: Tensor
    classes: Tensor
    budget: Mapping[str, Any]
    seed: int
    explain: Mapping[str, Callable[[ICN | None], Tensor]] = field(default_factory=dict)


def pooled(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return maps `[..., H, W]` at the grid of the model, `[..., *grid]`."""
    if maps.shape[-2:] == torch.Size(grid):
        return maps
    return pool_to(maps.flatten(0, -3), grid).unflatten(0, maps.shape[:-2])


def leading(scores: Tensor, count: int) -> Tensor:
    """Return scores of the first images `[n]` as a column `[count]`, nan for the images that were not measured."""
    column = torch.full((count,), torch.nan, device=scores.device)
    column[: len(scores)] = scores
    return column
