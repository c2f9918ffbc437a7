"""The training loss: named terms, whose sum is optimised.

A new term is a function in `TERMS` and a flag of the same name, its weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.architecture import ParameterError
from models.backbone import frozen_statistics
from models.icn import ICN, ICNOutput
from models.losses import class_loss

RECTANGLE = 1 / 4, 3 / 4  # shortest and longest side in the locality term, as shares of the image's; it may reach over the border


class Criterion:
    """The weighted terms of the loss.

    Args:
        label_smoothing: of every loss of the classes, which is that of the model (`ICN.loss`).
        weights: of the terms of `TERMS`, by name; a term of weight 0 is not computed.

    Attributes:
        names: of the terms in the order in which they are added up; `class` is the first.
    """

    def __init__(self, label_smoothing: float = 0.0, **weights: float) -> None:
        assert weights.keys() <= TERMS.keys(), f"there is no such term: {weights.keys() - TERMS.keys()}"
        self.label_smoothing = label_smoothing
        self.weights = {name: weights[name] for name in TERMS if weights.get(name)}
        self.names = ("class", *self.weights)

    def __call__(self, model: ICN, output: ICNOutput, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the terms of a batch.

        Args:
            model: computes what some terms need besides `output`.
            output: of `model` for `images`, with its graph.
            images: float `[B, 3, H, W]`, normalised.
            labels: `[B]`.

        Returns:
            For each of `names` a weighted scalar; `sum(terms.values())` is the loss.
        """
        terms = {"class": class_loss(model.loss, output.logits, labels, self.label_smoothing)}
        for name, weight in self.weights.items():
            terms[name] = weight * TERMS[name](self, model, output, images, labels)
        return terms


def _mosaic(criterion: Criterion, model: ICN, output: ICNOutput, images: Tensor, labels: Tensor) -> Tensor:
    """Classify each of four images joined to one by the evidence of its own quarter, so that evidence stays on its object."""
    logits, targets = mosaic_logits(model, images, labels, share=criterion.weights["mosaic"])
    logits = logits + model.presence_vector.bias  # type: ignore[operator]
    return class_loss(model.loss, logits, targets, criterion.label_smoothing)


def _locality(criterion: Criterion, model: ICN, output: ICNOutput, images: Tensor, labels: Tensor) -> Tensor:
    """Penalise evidence that depends on pixels of other cells."""
    return locality_loss(model, images, model.evidence_of(output.features))


Term = Callable[[Criterion, ICN, ICNOutput, Tensor, Tensor], Tensor]
TERMS: dict[str, Term] = {"mosaic": _mosaic, "locality": _locality}  # in the order of the sum


def mosaic_logits(model: ICN, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Classify the images of random mosaics, each by what its own quarter adds to the logits.

    Args:
        model: with an additive decoder, and a feature map of at least 2 x 2 cells.
        images: float `[B, 3, H, W]`, normalised, without padding.
        labels: `[B]`.
        share: mosaics per image.

    Returns:
        Logits `[4 * M, C]` without their bias, which all classes share, and the labels `[4 * M]`.
    """
    count = max(1, round(share * len(images)))
    indices = torch.stack([torch.randperm(len(images))[torch.arange(count) % len(images)] for _ in range(4)])  # [4, M]
    with frozen_statistics(model):  # running statistics are of images, not of mosaics
        evidence = model.evidence(mosaics(images, indices.to(images.device)))[1]  # [M, C, h, w]
    h, w = evidence.shape[-2:]
    if min(h, w) < 2:
        size = f"images of {images.shape[-2]} x {images.shape[-1]} pixels give a feature map of {h} x {w} cells"
        raise ParameterError("mosaic", f"{size}, too few for quarters: raise image_size or lower feature_stride")
    # In a mean over all cells a quarter of them has a quarter of the weight.
    scale = h * w / ((h // 2) * (w // 2)) if model.decoder_spec.is_average else 1.0
    logits = scale * quarter_sums(evidence)  # [4, M, C]
    return logits.flatten(0, 1), labels[indices.to(labels.device)].flatten()


def mosaics(images: Tensor, indices: Tensor) -> Tensor:
    """Join four images at half their size into one (as in the augmentation of YOLOv4, Bochkovskiy et al. 2020).

    `images` are `[B, 3, H, W]`, their `indices` `[4, M]`: top left and right, bottom left and right. Returns `[M, 3, H, W]`.
    """
    height, width = images.shape[-2:]
    top, left = height // 2, width // 2
    sizes = [(top, left), (top, width - left), (height - top, left), (height - top, width - left)]
    parts = [F.interpolate(images[i], size, mode="bilinear", antialias=True) for i, size in zip(indices, sizes, strict=True)]
    return torch.cat([torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)], -2)


def quarter_sums(evidence: Tensor) -> Tensor:
    """Sum maps `[B, C, h, w]` over the quarters in the order of `mosaics`: `[4, B, C]`. The middle of an odd side is left out."""
    rows, columns = ((slice(0, n // 2), slice(-(n // 2), None)) for n in evidence.shape[-2:])
    return torch.stack([evidence[..., row, column].sum((-2, -1)) for row in rows for column in columns])


def locality_loss(model: ICN, images: Tensor, evidence: Tensor) -> Tensor:
    """Compute how far the evidence of a cell depends on pixels of other cells.

    The receptive fields of deep features overlap, so that a network can move the evidence of an object to other cells. Here a
    random rectangle of each image, or all but the rectangle, is replaced by the pixels of the image before it in the batch. The
    evidence of a cell whose pixels are all of one image should be the evidence that this image has there: the loss is the mean
    square of the difference over the variance of the evidence between the classes. It can be 0 for the average decoder;
    attention weights, normalised over all cells, leave a little.

    Args:
        model: with an additive decoder, and without learned batch norms, which would mix the images of a batch.
        images: float `[B, 3, H, W]`, normalised, without padding.
        evidence: of all classes for `images`, `[B, C, h, w]`, with its graph.

    Returns:
        A scalar. The variance has no gradient: larger evidence is not rewarded.
    """
    pasted = _random_rectangle(images.shape[-2], images.shape[-1]).to(images.device)  # [H, W]
    changed = model.evidence(torch.where(pasted, images.roll(1, 0), images))[1]  # [B, C, h, w]
    stride: int = model.backbone[0].stride  # type: ignore[assignment]
    # Cells reach over the border where the side is no multiple of the stride: hence the ceiling.
    some_pasted, some_kept = (F.max_pool2d(x.to(images.dtype)[None], stride, ceil_mode=True)[0] > 0 for x in (pasted, ~pasted))
    all_kept, all_pasted = ~some_pasted, ~some_kept  # cells [h, w] whose pixels are all of one image
    distance = ((changed - evidence).square() * all_kept).sum() + ((changed - evidence.roll(1, 0)).square() * all_pasted).sum()
    compared = (all_kept.sum() + all_pasted.sum()).clamp(min=1) * evidence.shape[0] * evidence.shape[1]
    variance = (evidence - evidence.mean(1, keepdim=True)).square().mean().detach()
    return distance / compared / variance.clamp(min=torch.finfo(variance.dtype).tiny)


def _random_rectangle(height: int, width: int) -> Tensor:
    """Return a bool `[H, W]`: True in a random rectangle or, as often, outside it."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    sides = []
    for length in (height, width):
        shortest, longest = (round(share * length) for share in RECTANGLE)
        side = int(torch.randint(max(1, shortest), longest + 1, ()))
        start = int(torch.randint(-(side // 2), length - side // 2, ()))
        sides.append(slice(max(start, 0), start + side))
    inside[sides[0], sides[1]] = True
    return inside if torch.rand(()) < 0.5 else ~inside
