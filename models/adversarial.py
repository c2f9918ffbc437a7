"""Pictures moved, within a bound that no eye sees, to where they hurt most: training on them makes gradients mean something."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEP = 1.25  # of the bound


def fgsm_perturb(
    model: nn.Module,
    images: Tensor,
    padding_mask: Tensor | None,
    labels: Tensor,
    bound: Tensor,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """One step of the sign of the gradient from a random start (Wong, Rice and Kolter, ICLR 2020, algorithm 3).

    Args:
        model: fgsm_perturb in evaluation mode, and left in the mode in which it was; no gradient stays in its weights.
        images: float `[B, 3, H, W]`, normalised.
        padding_mask: bool `[B, H, W]`, True on padding, which is left as it is; or None.
        labels: `[B]`.
        bound: how far a value may move, positive; shape `[3, 1, 1]`.
        scale: of the loss, where gradients could underflow.

    Returns:
        The moved pictures, without gradient. They may leave the range of real ones by as much as the bound.
    """
    limit = bound.to(images).expand_as(images)
    if padding_mask is not None:
        limit = limit.masked_fill(padding_mask[:, None], 0)
    start = (limit * torch.empty_like(images).uniform_(-1, 1)).requires_grad_()
    training = model.training
    model.eval()
    try:
        loss = F.cross_entropy(model(images + start, padding_mask).logits.float(), labels)
        (slope,) = torch.autograd.grad(scale(loss), start)
    finally:
        model.train(training)
    return images + torch.clamp(start.detach() + STEP * limit * slope.sign(), -limit, limit)
