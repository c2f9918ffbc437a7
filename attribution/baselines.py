"""Baselines: images without information, which replace removed pixels and start the path of integrated gradients.

`mean` is 0, the mean colour of normalised images. `blur` is the image under an 11 x 11 Gaussian of sigma 5 (RISE, Petsiuk et al.,
BMVC 2018), renormalised at the border of the image, so that nothing leaks in from beyond it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

KERNEL, SIGMA = 11, 5.0  # pixels


def baseline_images(images: Tensor, kind: str) -> Tensor:
    """Return the `mean` or the `blur` of normalised images `[B, 3, H, W]`, in their shape; a ValueError for another kind."""
    if kind == "mean":
        return torch.zeros_like(images)
    if kind != "blur":
        raise ValueError(f"no replacement '{kind}': mean or blur")
    return _blur_from_zeros(images) / _blur_from_zeros(images.new_ones(len(images), 1, *images.shape[2:]))


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur the last two dimensions, reflected at the border, with a kernel of 3 sigma each way and at most half of a side."""
    size = [2 * min(math.ceil(3 * sigma), (side - 1) // 2) + 1 for side in (x.shape[-1], x.shape[-2])]
    return tv.gaussian_blur(x, size, [sigma, sigma])


def _blur_from_zeros(images: Tensor) -> Tensor:
    """Blur `[B, N, H, W]` with the baseline's kernel, with zeros beyond the border."""
    offset = torch.arange(KERNEL, device=images.device, dtype=images.dtype) - KERNEL // 2
    weight = (-(offset**2) / (2 * SIGMA**2)).exp()
    weight = (weight / weight.sum()).expand(images.shape[1], 1, 1, -1)
    rows = F.conv2d(images, weight, padding=(0, KERNEL // 2), groups=images.shape[1])
    return F.conv2d(rows, weight.transpose(2, 3), padding=(KERNEL // 2, 0), groups=images.shape[1])
