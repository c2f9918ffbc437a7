"""Controls and oracles: maps without information on the model, and maps made of the ground truth.

Each has the signature of all methods, `(model, images [B, 3, H, W], classes [B], *, padding_mask, **options) -> [B, H, W]`,
float32 and 0 on padding (bool `[B, H, W]`, True there). The model is not used.
"""

from __future__ import annotations

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

from attribution.resize import image_extent, pool_to


def random(
    model: object,
    images: Tensor,
    classes: Tensor,
    *,
    padding_mask: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    seed: int = 0,
) -> Tensor:
    """Draw uniform noise `[B, *grid]` (None: at the pixels; pooled noise would be grey).

    It depends on the image, the class and `seed` alone: not on the batch, and not on earlier draws.
    """
    valid = _valid(images, padding_mask)
    cells = valid if grid is None else pool_to(valid, grid) > 0
    maps = torch.zeros(cells.shape)
    for index, (image, label) in enumerate(zip(images.detach().float().cpu(), classes.tolist(), strict=True)):
        height, width = image_extent(valid[index])
        key = f"{seed} {label}".encode() + image[:, :height, :width].contiguous().numpy().tobytes()
        height, width = image_extent(cells[index])
        generator = torch.Generator().manual_seed(zlib.crc32(key))
        maps[index, :height, :width] = torch.rand(height, width, generator=generator)
    return maps.to(images.device)


def centre(model: object, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Return a Gaussian at the centre of the image with a sigma of a quarter of height and width: photographers' bias."""
    valid = _valid(images, padding_mask)
    profiles = []
    for axis in (1, 2):
        extent = valid.any(3 - axis).sum(1, keepdim=True)  # [B, 1], pixels
        position = (torch.arange(images.shape[axis + 1], device=images.device) + 0.5) / extent - 0.5  # [B, H or W]
        profiles.append((-(position**2) / (2 * 0.25**2)).exp())
    return (profiles[0][:, :, None] * profiles[1][:, None, :]).masked_fill(~valid, 0)


def edges(model: object, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Return the length of the image's gradient, by Sobel's kernels on the mean of the normalised channels."""
    grey = F.pad(images.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")  # [B, 1, H+2, W+2]
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=images.device) / 8
    gradients = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])  # [B, 2, H, W]
    maps = torch.linalg.vector_norm(gradients, dim=1)
    if padding_mask is None:
        return maps
    near = F.max_pool2d(padding_mask[:, None].float(), 3, stride=1, padding=1)[:, 0].bool()
    return maps.masked_fill(near, 0)  # the step from the image to its padding is no edge


def oracle(model: object, images: Tensor, classes: Tensor, *, masks: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Return the ground truth of the object: its masks, bool `[B, H, W]`; a ValueError if they have another size."""
    if masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"the masks must be {[len(images), *images.shape[2:]]}, not {list(masks.shape)}")
    return masks.float().masked_fill(~_valid(images, padding_mask), 0)


def evidence_oracle(
    model: object, images: Tensor, classes: Tensor, *, removal_effects: Tensor, padding_mask: Tensor | None = None
) -> Tensor:
    """Return the ground truth of removals, float `[B, H, W]`: each part has the drop of the logit without the part."""
    return removal_effects.masked_fill(~_valid(images, padding_mask), 0)


def _valid(images: Tensor, padding_mask: Tensor | None) -> Tensor:
    if padding_mask is not None:
        return ~padding_mask
    return torch.ones(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
