"""The pictures that are measured, in units of one shape: none is padded, so that no picture changes another's maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from attribution.evaluation.harness import Unit
from attribution.planes.metrics import PlanesMetrics
from datasets import EvalSampler, ImageFolder, collate, eval_shapes
from datasets.masks import object_masks


def subset(split: ImageFolder, places: Sequence[int]) -> ImageFolder:
    """Some pictures of a split, in the order of `places`."""
    some = copy.copy(split)
    some.paths, some.labels = [split.paths[place] for place in places], [split.labels[place] for place in places]
    return some


class Pictures:
    """Some pictures of a split.

    Args:
        split: with its eval transform.
        places: of the pictures in the split.
        predictions: the class that the model predicts, for every picture of the split.
        batch_size: pictures in a unit, at most.
        normalisation: mean and standard deviation of the model's input.
        device: where they are wanted.
        masks: folder of the objects' masks, or None.

    Attributes:
        units: how many pictures each has. paths, labels, predicted, sizes: of the pictures in the order of the units.
        planes: what is known about them, once it is; then the units have the effects of removed parts.
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

    def load(self, number: int) -> Unit:
        """A unit by its number."""
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
