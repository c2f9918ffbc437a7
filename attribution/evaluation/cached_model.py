"""A classifier that answers from memory: methods that only look at outputs ask the same inputs again for every class."""

from __future__ import annotations

import torch
from torch import Tensor

from models import ICN, ICNOutput


class CachedModel:
    """The logits of batches of one shape that were seen before are not computed again.

    A batch is known by two sums over it in float64, plain and weighted. `forget` between pictures: it keeps all answers.
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
