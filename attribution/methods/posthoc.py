"""Post-hoc methods for any classifier, the baselines of the model's own maps: Grad-CAM, integrated gradients, occlusion, RISE.

All take a model in evaluation mode, images float `[B, 3, H, W]`, normalised, one class index per image `[B]`, and a padding mask
bool `[B, H, W]`, True on padding, or None. Gradients are those of the logit; occlusion measures the logit, RISE the
probability. Methods that change the input take each image alone, without its padding. Baselines: see `attribution.baselines`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribution.baselines import baseline_images
from attribution.methods.hooks import frozen, start_graph
from attribution.resize import crop_padding
from models import ICN
from models.icn import resize_mask

CAPTUM = "captum>=0.9"  # as pip takes it
STEPS, MASKS = 32, 1000  # defaults of integrated gradients and of RISE
OCCLUDERS = 7  # default occluders along each side of the image, with a stride of half of one


def gradcam(
    model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, siblings: Tensor | None = None
) -> Tensor:
    """Compute Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2) on the backbone's feature map.

    Returns:
        float32 `[B, h, w]`, non-negative, 0 on padding.
    """
    saved: list[Tensor] = []

    def save_features(module: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor:
        saved.append(start_graph(features))
        return saved[0]

    with frozen(model):
        hook = model.backbone[0].register_forward_hook(save_features)
        try:
            logits = model(images, padding_mask).logits
        finally:
            hook.remove()
        score = logits.gather(1, classes[:, None]).sum()
        if siblings is not None:
            score = score - logits.gather(1, siblings[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, saved)
    with torch.no_grad():
        features, gradient = saved[0].float(), gradient.float()  # [B, C', h, w]
        mask = resize_mask(padding_mask, features)
        valid = torch.ones_like(features[:, :1]) if mask is None else (~mask[:, None]).float()  # [B, 1, h, w]
        weights = (gradient * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True)  # [B, C', 1, 1]
        return ((weights * features).sum(1) * valid[:, 0]).clamp(min=0)


def finercam(model: ICN, images: Tensor, classes: Tensor, *, siblings: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Compute Grad-CAM of the difference of two logits, `logit_c - logit_sibling` (Finer-CAM, Zhang et al., CVPR 2025)."""
    return gradcam(model, images, classes, padding_mask=padding_mask, siblings=siblings)


def integrated_gradients(
    model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, steps: int = STEPS, baseline: str = "blur"
) -> Tensor:
    """Compute integrated gradients (Sundararajan et al., ICML 2017, eq. 1) by captum, summed over colours.

    Args:
        steps: of the Gauss-Legendre quadrature between baseline and image, each a forward and a backward pass.
        baseline: `blur` or `mean`.

    Returns:
        float32 `[B, H, W]`, signed, 0 on padding.

    Raises:
        ValueError: another baseline, or captum is missing.
    """
    method = _captum("integrated_gradients").IntegratedGradients(lambda x: model(x).logits)
    with frozen(model):
        maps = torch.zeros(len(images), *images.shape[2:], device=images.device)
        for (region, image), label in zip(crop_padding(images, padding_mask), classes.tolist(), strict=True):
            start = baseline_images(image, baseline)
            attributed = method.attribute(image, start, label, n_steps=steps, internal_batch_size=16)
            maps[region] = attributed.detach()[0].sum(0)
    return maps


@torch.no_grad()
def occlusion(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    padding_mask: Tensor | None = None,
    window: int | None = None,
    stride: int | None = None,
    baseline: str = "mean",
) -> Tensor:
    """Compute occlusion (Zeiler and Fergus, ECCV 2014) by captum: the drop of the logit, averaged over the occluders of a pixel.

    Args:
        window, stride: side and step of the square occluder in pixels; None: half-overlapping, 7 along each side.
        baseline: what replaces the occluded pixels, `mean` or `blur`.

    Returns:
        float32 `[B, H, W]`, signed, 0 on padding.

    Raises:
        ValueError: another baseline, an occluder larger than an image, or captum is missing.
    """
    method = _captum("occlusion").Occlusion(lambda x: model(x).logits)
    maps = torch.zeros(len(images), *images.shape[2:], device=images.device)
    for (region, image), label in zip(crop_padding(images, padding_mask), classes.tolist(), strict=True):
        sides, steps = occluders((image.shape[2], image.shape[3]), window, stride)
        window_shape, strides, start = (3, *sides), (3, *steps), baseline_images(image, baseline)
        attributed = method.attribute(image, window_shape, strides, start, label, perturbations_per_eval=32)
        maps[region] = attributed[0].mean(0)
    return maps


def occluders(size: tuple[int, int], window: int | None = None, stride: int | None = None) -> tuple[list[int], list[int]]:
    """Return sides and strides of the occluders of images of `size` `(H, W)`; ValueError where they leave pixels out."""
    sides = [-(-side // OCCLUDERS) for side in size] if window is None else [window, window]
    steps = [max(1, side // 2) for side in sides] if stride is None else [stride, stride]
    if window is not None and not 0 < window <= min(size):
        raise ValueError(f"window {window} must be from 1 to {min(size)}, the shorter side of the image")
    if stride is not None and not 0 < stride <= min(sides):
        raise ValueError(f"stride {stride} must be from 1 to {min(sides)}, the side of the occluder")
    return sides, steps


@torch.no_grad()
def rise(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    padding_mask: Tensor | None = None,
    n: int = MASKS,
    p: float = 0.5,
    cells: int = 7,
    seed: int = 0,
    at_once: int = 32,
) -> Tensor:
    """Compute RISE (Petsiuk et al., BMVC 2018, eq. 6): the mean of random masks, weighted by the probability under each, over p.

    A mask is a grid of `cells` x `cells` that are 1 with probability p, enlarged bilinearly to the image and one cell
    more, and shifted by less than that cell. All images have the same grids.

    Args:
        n, p, cells, seed: number of masks, share of a mask that is 1, cells a side, and seed of the generator.
        at_once: images in one pass.

    Returns:
        float32 `[B, H, W]`, non-negative, 0 on padding.

    Raises:
        ValueError: `n` or `cells` is below 1, or `p` not between 0 and 1.
    """
    if n < 1 or cells < 1 or not 0 < p < 1:
        raise ValueError(f"RISE needs n >= 1, cells >= 1 and 0 < p < 1, not {n}, {cells} and {p}")
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(n, cells, cells, generator=generator) < p  # bool: the masks of an image never exist all at once
    shifts = torch.rand(n, 2, generator=generator)  # of a cell
    maps = torch.zeros(len(images), *images.shape[2:], device=images.device)
    for (region, image), label in zip(crop_padding(images, padding_mask), classes.tolist(), strict=True):
        for part, shift in zip(grids.split(at_once), shifts.split(at_once), strict=True):
            masks = _rise_masks(part.to(image), shift, (image.shape[2], image.shape[3]))  # [b, H, W]
            scores = model.probabilities(model(image * masks[:, None]).logits)[:, label]  # [b]
            maps[region] += torch.einsum("b,bhw->hw", scores, masks.float()) / (n * p)
    return maps


def _rise_masks(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge RISE's grids `[b, cells, cells]` to masks `[b, H, W]`, shifted by shares of a cell `[b, 2]`."""
    cells = grids.shape[1]
    sides = [-(-side // cells) for side in size]  # of a cell, rounded up
    masks = F.interpolate(grids[:, None], size=[side * (cells + 1) for side in sides], mode="bilinear")[:, 0]
    corners = (shifts * torch.tensor(sides)).long().tolist()
    return torch.stack([m[top : top + size[0], left : left + size[1]] for m, (top, left) in zip(masks, corners, strict=True)])


def _captum(method: str) -> Any:
    try:
        from captum import attr
    except ImportError:
        raise ValueError(f"{method} needs captum, which is not installed: pip install '{CAPTUM}'") from None
    return attr
