"""Adversarial perturbation of images within a small bound; training on it makes gradients of the input interpretable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.icn import ICN
from models.losses import class_loss

STEP = 1.25  # of the bound


def fgsm_perturb(
    model: ICN,
    images: Tensor,
    padding_mask: Tensor | None,
    labels: Tensor,
    bound: Tensor,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Perturb images by one fast gradient sign step from a random start (Wong, Rice and Kolter, ICLR 2020, algorithm 3).

    Args:
        model: in evaluation mode during the step; its weights get no gradient.
        images: float `[B, 3, H, W]`, normalised.
        padding_mask: bool `[B, H, W]`, True on padding, which is not perturbed; or None.
        labels: `[B]`.
        bound: largest absolute change of a value, positive; `[3, 1, 1]`, in normalised units.
        scale: multiplies the loss, where gradients could underflow.

    Returns:
        The perturbed images, without gradient. They may leave the range of valid images by as much as the bound.
    """
    limit = bound.to(images).expand_as(images)
    if padding_mask is not None:
        limit = limit.masked_fill(padding_mask[:, None], 0)
    start = (limit * torch.empty_like(images).uniform_(-1, 1)).requires_grad_()
    training = model.training
    model.eval()
    try:
        loss = class_loss(model.loss, model(images + start, padding_mask).logits, labels)
        (gradient,) = torch.autograd.grad(scale(loss), start)
    finally:
        model.train(training)
    return images + torch.clamp(start.detach() + STEP * limit * gradient.sign(), -limit, limit)
