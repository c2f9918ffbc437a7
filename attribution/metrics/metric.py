"""A metric, one row of the registry, and what it is computed from: maps of images, or a model with images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from attribution.methods.registry import Method
from attribution.metrics.faithfulness import PixelPerturbation
from attribution.resize import pool_to
from models import ICN

ARROWS = {1: " ↑", -1: " ↓", 0: ""}
Columns = dict[str, Tensor]  # of metrics: one number per image, [B]


@dataclass(frozen=True)
class Metric:
    """One row of the registry.

    `compute` returns, of a `MapBatch`, `[B]`, or a column for each metric that shares the function (empty where it does not
    apply); a metric of models, of a `ModelBatch`, named groups of columns `[n]`; of parts, of a `Partition` of R resamples of the
    images in D draws, `[R, D]`.
    """

    name: str  # column of attribution.json
    family: str  # metrics of a family are measured together; the value of `--metrics`
    compute: Callable[[Any], Any]
    label: str  # title in tables and plots
    meaning: str  # one line for the legend and the documentation
    better: Literal[1, -1, 0] = 0  # more, less, neither
    section: str = ""  # title of the table in attribution.md; empty: in no table
    native: bool = False  # also of maps at the method's own resolution, as `<name>_native`
    # Whether the column is in that table, alone, with its native twin, or not at all; attribution.csv has all columns.
    main: Literal["pooled", "both", ""] = "pooled"
    bar: bool = False  # among the headline plots, and in the table of paired differences
    # Measured of maps of single objects, of two objects, of all images at once (by head, or by class), or of the model.
    scope: Literal["maps", "pairs", "parts", "classes", "model"] = "maps"
    images: str = ""  # field of the budget that limits the images, of a metric of models
    labelled: bool = False  # a metric of models that takes images of the split with their true classes
    applies: Callable[[ICN], bool] = lambda model: True  # whether a metric of models or of parts is defined for the model

    @property
    def title(self) -> str:
        """Return the label with an arrow in the better direction."""
        return self.label + ARROWS[self.better]


@dataclass
class Unit:
    """Images of one shape that are measured together."""

    number: int
    rows: slice  # the indices of its images among all that are measured
    images: Tensor  # [B, 3, H, W], normalised
    classes: Tensor  # predicted, [B]
    masks: Tensor | None = None  # of the objects, bool [B, H, W], empty for an image that has none
    removal_effects: Tensor | None = None  # on each part the drop of the logit of `classes` without the part, [B, H, W]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> int:
        """Return how many of these images are among the first `count` of all; None for all."""
        return len(self) if count is None else min(len(self), max(0, count - self.rows.start))


@dataclass
class MapBatch:
    """The maps of one method of a unit's images, and what the metrics of maps need beside them."""

    unit: Unit
    method: Method
    maps: Tensor  # [B, h, w], pooled to the grid of the model, or as the method made them; of pairs [B, 2, h, w]
    native_maps: Tensor | None  # at the method's own resolution; None where that is the model's grid, and for controls
    siblings: Tensor  # the class that each predicted class is most confused with, [B]
    budget: Any  # sizes of the measurement, an `evaluation.protocol.Budget`
    seed: int  # of ties and noise
    costly: bool  # the method is spared what needs many maps per image
    perturbation: Callable[[str], PixelPerturbation]  # the unit's images with pixels replaced by `mean` or `blur`
    explain: Callable[[Tensor, Tensor], Tensor]  # the method's pooled maps [n, h, w] of images and classes [n]
    planes: Callable[[MapBatch], Columns] | None = None  # scores on factorial planes at the resolution of a batch
    native: bool = False  # whether `maps` are at the method's own resolution
    curves: Columns = field(default_factory=dict)  # [B, steps + 1]; a metric adds those that are to be drawn


@dataclass
class ModelBatch:
    """A model with images, for the metrics of models."""

    model: ICN  # for gradients
    inference: ICN  # a faster copy without gradients
    images: Tensor  # [n, 3, H, W], normalised
    classes: Tensor  # [n], predicted; the true ones for a metric of labelled images
    budget: Any
    seed: int
    explain: Mapping[str, Callable[[ICN | None], Tensor]]  # of methods that are not costly, maps [n, h, w] by another model


def pooled(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return maps `[..., H, W]` at the grid of the model, `[..., *grid]`."""
    if maps.shape[-2:] == torch.Size(grid):
        return maps
    return pool_to(maps.flatten(0, -3), grid).unflatten(0, maps.shape[:-2])


def pad_with_nan(scores: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return scores of the first images `[n, ...]` as a column `[count, ...]`, nan for the images that were not measured."""
    column = torch.full((count, *scores.shape[1:]), torch.nan, dtype=dtype, device=scores.device)
    column[: len(scores)] = scores
    return column
