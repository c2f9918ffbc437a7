"""Four pictures in one, each to be recognised from its own quarter of the map: so evidence learns to stay with its object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models import ICN
from models.backbone import uncounted


def mosaics(images: Tensor, places: Tensor) -> Tensor:
    """Pictures of four pictures at half their size (the joining of YOLOv4's augmentation, Bochkovskiy et al. 2020).

    Args:
        images: `[B, 3, H, W]`.
        places: indices of the pictures `[4, M]`: above left and right, below left and right.

    Returns:
        `[M, 3, H, W]`.
    """
    height, width = images.shape[-2:]
    top, left = height // 2, width // 2
    sizes = [(top, left), (top, width - left), (height - top, left), (height - top, width - left)]
    parts = [F.interpolate(images[some], size, mode="bilinear", antialias=True) for some, size in zip(places, sizes, strict=True)]
    return torch.cat([torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)], -2)


def quarters(evidence: Tensor) -> Tensor:
    """Sums of maps `[B, C, h, w]` over the quarters in the order of `mosaics`: `[4, B, C]`. Cells on a border belong to none."""
    h, w = evidence.shape[-2] // 2, evidence.shape[-1] // 2
    return torch.stack([evidence[..., rows, columns].sum((-2, -1)) for rows in _ends(h) for columns in _ends(w)])


def _ends(length: int) -> tuple[slice, slice]:
    return slice(0, length), slice(-length, None)


def mosaic_loss(model: ICN, images: Tensor, labels: Tensor, share: float, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the pictures of mosaics, each classified by what its own quarter adds to the logits.

    Nothing but the picture's label is used: where an object is, the joining knows.

    Args:
        model: of `--decoder additive` or `none`.
        images: float `[B, 3, H, W]`, normalised, without padding.
        labels: `[B]`.
        share: mosaics per picture.

    Returns:
        A scalar.

    Raises:
        ValueError: a grid of features of a single row or column has no quarters.
    """
    count = max(1, round(share * len(images)))
    places = torch.stack([torch.randperm(len(images))[torch.arange(count) % len(images)] for _ in range(4)])
    with uncounted(model):  # what will be evaluated are pictures, no mosaics
        evidence = model.evidence(mosaics(images, places.to(images.device)))[1]  # [M, C, h, w]
    h, w = evidence.shape[-2:]
    if min(h, w) < 2:
        raise ValueError(
            f"--mosaic: images of {images.shape[-2]} x {images.shape[-1]} pixels give a map of {h} x {w} cells, "
            "too few for quarters: raise --image_size or lower --feature_stride"
        )
    # A mean over all cells can say no more than a quarter of it in a quarter of them.
    scale = h * w / ((h // 2) * (w // 2)) if model.decoder_kind == "none" else 1.0
    answers = scale * quarters(evidence)  # less the bias, which all classes share
    return F.cross_entropy(answers.flatten(0, 1), labels[places.to(labels.device)].flatten(), label_smoothing=label_smoothing)
