"""Mosaic loss: of four images in one, each is classified by the evidence of its own quarter; so it stays on its object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import frozen_statistics
from models.errors import ParameterError
from models.icn import ICN


def mosaics(images: Tensor, indices: Tensor) -> Tensor:
    """Join four images at half their size (as in the augmentation of YOLOv4, Bochkovskiy et al. 2020).

    Args:
        images: `[B, 3, H, W]`.
        indices: of the images, `[4, M]`: top left and right, bottom left and right.

    Returns:
        `[M, 3, H, W]`.
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


def mosaic_logits(model: ICN, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Classify the images of random mosaics, each by what its own quarter adds to the logits.

    Args:
        model: with an additive decoder.
        images: float `[B, 3, H, W]`, normalised, without padding.
        labels: `[B]`.
        share: mosaics per image.

    Returns:
        Logits `[4 * M, C]` without their bias, which all classes share, and the labels `[4 * M]`.

    Raises:
        ParameterError: a feature map of a single row or column has no quarters.
    """
    count = max(1, round(share * len(images)))
    indices = torch.stack([torch.randperm(len(images))[torch.arange(count) % len(images)] for _ in range(4)])  # [4, M]
    with frozen_statistics(model):  # running statistics are of images, not of mosaics
        evidence = model.evidence(mosaics(images, indices.to(images.device)))[1]  # [M, C, h, w]
    h, w = evidence.shape[-2:]
    if min(h, w) < 2:
        raise ParameterError(
            "mosaic",
            f"images of {images.shape[-2]} x {images.shape[-1]} pixels give a feature map of {h} x {w} cells, "
            "too few for quarters: raise image_size or lower feature_stride",
        )
    # In a mean over all cells a quarter of them has a quarter of the weight.
    scale = h * w / ((h // 2) * (w // 2)) if model.decoder_spec.is_mean else 1.0
    logits = scale * quarter_sums(evidence)  # [4, M, C]
    return logits.flatten(0, 1), labels[indices.to(labels.device)].flatten()
