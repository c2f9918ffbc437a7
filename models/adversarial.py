"""Adversarial perturbation of images within a small bound; training on it makes gradients of the input interpretable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

REPLAYS = 4  # optimizer steps on each batch
RAMP = 0.4  # share of the training in which the bound grows from 0, linearly


@dataclass(frozen=True)
class Adversary:
    """Adversarial training by replayed batches ("free" training, Shafahi et al., NeurIPS 2019, algorithm 1).

    Each batch is used for `REPLAYS` optimizer steps. The backward pass of a step gives the gradient of the weights and that of
    the images, and the latter perturbs the images of the next step: the perturbation needs no pass of its own. It starts at
    random (Wong, Rice and Kolter, ICLR 2020). The bound grows, because random weights learn nothing from images that are
    perturbed by all of it.

    Attributes:
        bound: largest absolute change of a value, positive; `[3, 1, 1]`, in normalised units.
        ramp_steps: batches over which the bound grows.
    """

    bound: Tensor
    ramp_steps: int

    def start(self, images: Tensor, padding_mask: Tensor | None, step: int) -> Perturbation:
        """Start the perturbation of a batch.

        Args:
            images: float `[B, 3, H, W]`, normalised.
            padding_mask: bool `[B, H, W]`, True on padding, which is not perturbed; or None.
            step: number of the batch, from 0.
        """
        limit = (self.bound * min(1.0, (step + 1) / max(1, self.ramp_steps))).to(images).expand_as(images)
        if padding_mask is not None:
            limit = limit.masked_fill(padding_mask[:, None], 0)
        return Perturbation(images, limit)


class Perturbation:
    """Images of a batch, and how they are perturbed.

    Attributes:
        images: `[B, 3, H, W]`, as they are.
        limit: largest absolute change, `[B, 3, H, W]`. Perturbed images may leave the range of valid images by as much.
    """

    def __init__(self, images: Tensor, limit: Tensor) -> None:
        self.images, self.limit = images, limit
        self._change = limit * torch.empty_like(images).uniform_(-1, 1)

    def perturbed(self) -> Tensor:
        """Return the perturbed images as a leaf that gradients are kept of."""
        return (self.images + self._change).detach().requires_grad_()

    def ascend(self, gradient: Tensor) -> None:
        """Take a step of the bound's length, within the bound, along the sign of the loss's gradient `[B, 3, H, W]`."""
        step = self.limit * gradient.sign().nan_to_num()  # not finite where fp16 overflows
        self._change = torch.clamp(self._change + step, -self.limit, self.limit)
