"""The training loss: named terms, whose sum is optimised.

A new term is a function in `TERMS` and a flag of the same name, its weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from models.icn import ICN, ICNOutput
from models.locality import locality_loss
from models.mosaic import mosaic_logits


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Return the softmax cross-entropy in nats, in float32.

    Args:
        logits: `[B, C]`.
        labels: class indices `[B]`.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., CVPR 2016, section 7).
        reduction: `mean` or `sum` over the images.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing, reduction=reduction)


class Criterion:
    """The weighted terms of the loss.

    Args:
        label_smoothing: of every cross-entropy.
        weights: of the terms by their names in `TERMS`; a term of weight 0 is not computed.

    Attributes:
        names: the terms in the order in which they are added up; `class` is the first.
    """

    def __init__(self, label_smoothing: float = 0.0, **weights: float) -> None:
        assert weights.keys() <= TERMS.keys(), f"there is no such term: {weights.keys() - TERMS.keys()}"
        self.label_smoothing = label_smoothing
        self.weights = {name: weights[name] for name in TERMS if weights.get(name)}
        self.names = ("class", *self.weights)

    def __call__(self, model: ICN, output: ICNOutput, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the terms of a batch.

        Args:
            model: that computes further outputs for some of the terms.
            output: of `model` for `images`, with its graph.
            images: float `[B, 3, H, W]`, normalised.
            labels: `[B]`.

        Returns:
            For each of `names` a weighted scalar; `sum(terms.values())` is the loss.
        """
        terms = {"class": cross_entropy(output.logits, labels, self.label_smoothing)}
        for name, weight in self.weights.items():
            terms[name] = weight * TERMS[name](self, model, output, images, labels)
        return terms


def _mosaic(criterion: Criterion, model: ICN, output: ICNOutput, images: Tensor, labels: Tensor) -> Tensor:
    logits, targets = mosaic_logits(model, images, labels, share=criterion.weights["mosaic"])
    return cross_entropy(logits, targets, criterion.label_smoothing)


def _locality(criterion: Criterion, model: ICN, output: ICNOutput, images: Tensor, labels: Tensor) -> Tensor:
    return locality_loss(model, images, model.evidence_of(output.features))


Term = Callable[[Criterion, ICN, ICNOutput, Tensor, Tensor], Tensor]
TERMS: dict[str, Term] = {"mosaic": _mosaic, "locality": _locality}  # in the order of the sum
