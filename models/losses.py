"""The loss of the classes: softmax cross-entropy (ce), or binary cross-entropy of every class by itself (bce).

It decides what a logit means, and so the probability of a class: `class_probabilities`. A further loss is a row of `_LOSSES`, of
`class_probabilities` and of `models.architecture.LOSSES`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.architecture import LOSSES, ParameterError


def class_loss(loss: str, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Compute the loss of the classes in nats, in float32.

    Args:
        loss: a name of `models.architecture.LOSSES`.
        logits: `[B, C]`.
        labels: class indices `[B]`.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., CVPR 2016, section 7).
        reduction: `mean` or `sum` over the images.
    """
    return _LOSSES[loss](logits.float(), labels, label_smoothing, reduction)


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float, reduction: str) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction=reduction)


def _binary_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float, reduction: str) -> Tensor:
    """Sum the binary cross-entropies of the classes, with targets of at least 1/C (Boehle et al., TPAMI 2024, B-cos networks).

    With targets of 1/C for the absent classes and logits that start at -log(C - 1), the gradient of an absent class starts at 0,
    and that of the label at 1/C - 1, as with the softmax cross-entropy: hence the sum over the classes, not the mean. Smoothing
    lowers the target of the label alone. The least loss is the entropy of the targets, about log(C) + 1.
    """
    floor = 1 / logits.shape[1]
    targets = logits.new_full(logits.shape, floor)
    targets.scatter_(1, labels[:, None], 1 - label_smoothing + label_smoothing * floor)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)  # [B]
    return losses.mean() if reduction == "mean" else losses.sum()


_LOSSES = {"ce": _cross_entropy, "bce": _binary_cross_entropy}


def class_probabilities(logits: Tensor, loss: str) -> Tensor:
    """Return the probabilities of logits `[..., C]`, in float32 at least; those of bce need not sum to 1."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.sigmoid() if loss == "bce" else logits.softmax(-1)


def constant_bias(loss: str, num_classes: int) -> float | None:
    """Return the bias of all logits where it is not trained, else None.

    With bce it is -log(C - 1): without any evidence for or against it a class has the probability 1/C.

    Raises:
        ParameterError: there is no such loss, or bce has one class alone.
    """
    if loss not in LOSSES:
        raise ParameterError("loss", f"{loss!r} is not known: choose {' or '.join(LOSSES)}")
    if loss == "bce" and num_classes < 2:
        raise ParameterError("loss", "bce needs at least 2 classes")
    return -math.log(num_classes - 1) if loss == "bce" else None
