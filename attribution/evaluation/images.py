"""The images that are measured, in units of one shape: none is padded, so that no image changes another's maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from attribution.metrics.batch import Unit
from attribution.planes.metrics import PlanesMetrics
from datasets import EvalSampler, ImageFolder, collate, eval_shapes
from datasets.masks import object_masks


def subset(split: ImageFolder, places: Sequence[int]) -> ImageFolder:
    """Return the images of a split at `places`, in that order."""
    chosen = copy.copy(split)
    chosen.paths, chosen.labels = [split.paths[place] for place in places], [split.labels[place] for place in places]
    return chosen


class Pictures:
    """The images of a split that are measured.

    Args:
        split: with its eval transform.
        places: of the images in the split.
        predictions: the class that the model predicts, for every image of the split.
        batch_size: images in a unit, at most.
        normalisation: mean and standard deviation of the model's input.
        device: of the units.
        masks: folder of the objects' masks, or None.

    Attributes:
        units: how many images each has. paths, labels, predicted, sizes: of the images in the order of the units.
        planes: their ground truth on factorial planes, or None; with it the units have the effects of removed parts.
    """

    def __init__(
        self,
        split: ImageFolder,
        places: Sequence[int],
        predictions: Tensor,
        batch_size: int,
        normalisation: Mapping[str, list[float]],
        device: torch.device,
        masks: Path | None = None,
    ) -> None:
        chosen = subset(split, places)
        shapes = eval_shapes(chosen)
        batches = EvalSampler(len(chosen), batch_size, shapes=shapes).batches
        order = [place for batch in batches for place in batch]
        self.data, self.units = subset(chosen, order), [len(batch) for batch in batches]
        self.paths, self.labels = self.data.paths, self.data.labels
        self.sizes = [shapes[place] for place in order]
        self.predicted = predictions[torch.tensor([places[place] for place in order])]
        self.normalisation, self.device, self.masks = normalisation, device, masks
        self.planes: PlanesMetrics | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> list[dict[str, str]]:
        """Return `file`, `label` and `predicted` of each image."""
        names, predicted = self.data.classes, self.predicted.tolist()
        return [
            {"file": str(path.relative_to(self.data.root)), "label": names[label], "predicted": names[prediction]}
            for path, label, prediction in zip(self.paths, self.labels, predicted, strict=True)
        ]

    def load(self, number: int) -> Unit:
        """Return a unit by its number."""
        start = sum(self.units[:number])
        rows = slice(start, start + self.units[number])
        batch = collate([self.data[place] for place in range(rows.start, rows.stop)]).to(self.device)
        images, predicted = batch.normalise(**self.normalisation), self.predicted[rows]
        masks, effects = None, None
        if self.masks is not None:
            masks = object_masks(self.masks, self.data.root, self.paths[rows], self.sizes[start]).to(self.device)
        if self.planes is not None:
            effects = self.planes.removal_effects(rows, predicted).to(self.device)
        return Unit(number, rows, images, predicted.to(self.device), masks, effects)
