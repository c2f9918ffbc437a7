"""Possible shortcuts: `attribution.metrics.shortcuts` of the maps that were measured, of images that are classified right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attribution.evaluation.inputs import Inputs, MeasuredImages
from attribution.metrics.registry import METRICS
from attribution.metrics.shortcuts import Shortcuts, share_outside
from datasets.masks import object_masks
from util.progress import Progress


def measure_shortcuts(inputs: Inputs, images: MeasuredImages, maps: Sequence[Tensor]) -> dict[str, Any]:
    """Return the entry `shortcuts` of attribution.json, of the maps `[h, w]` of all images for their predicted classes."""
    predicted, labels = images.predicted.tolist(), images.data.labels
    right = [place for place, label in enumerate(labels) if label == predicted[place]]
    outside = torch.full((len(images),), torch.nan, dtype=torch.float64)
    if inputs.masks is not None:
        with Progress(len(right), "masks") as progress:
            for place in right:
                masks = object_masks(inputs.masks, images.data.root, [images.paths[place]], images.sizes[place])
                outside[place] = share_outside(maps[place][None], masks)[0]
                progress.step()
    known = outside[right].numpy() if inputs.masks is not None else None
    columns = [maps[place] for place in right], [labels[place] for place in right], known, inputs.args.seed
    found: Shortcuts = METRICS["shortcut"].compute(columns)
    return found.as_json(images.data.classes)
