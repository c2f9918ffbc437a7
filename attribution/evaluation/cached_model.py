"""A cache of a model's logits: methods that use outputs alone evaluate the same inputs for every class."""

from __future__ import annotations

import torch
from torch import Tensor

from models import ICN, ICNOutput


class CachedModel:
    """A model that computes the logits of each batch once.

    A batch is identified by two sums over it in float64, plain and weighted. Nothing is dropped before `clear`.
    """

    def __init__(self, model: ICN) -> None:
        self.model = model
        self.known: dict[tuple[object, ...], ICNOutput] = {}
        self.weights = torch.empty(0)

    def clear(self) -> None:
        self.known.clear()

    def __call__(self, images: Tensor) -> ICNOutput:
        if self.weights.shape != images.shape:
            generator = torch.Generator().manual_seed(0)
            self.weights = torch.rand(images.shape, generator=generator).to(images.device)
        sums = torch.stack([images.sum(dtype=torch.float64), (images * self.weights).sum(dtype=torch.float64)])
        key = (*images.shape, *sums.tolist())
        if key not in self.known:
            output = self.model(images)
            self.known[key] = ICNOutput(output.logits, output.features[:, :0])
        return self.known[key]
