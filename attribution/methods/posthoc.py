"""Maps made from outside, for any classifier: what the model's own maps are compared with.

All have the signature of the model's own maps. Gradients are those of the logit; occlusion watches the logit, RISE the
softmax probability. Those that change the input look at each picture alone, without its padding. `mean` is 0, the mean of
normalised pictures, and `blur` an 11x11 Gaussian of sigma 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribution.baselines import baseline_images
from attribution.methods.hooks import frozen, start_graph
from models import ICN

CAPTUM = "captum>=0.9"  # as pip takes it
STEPS, MASKS = 32, 1000  # defaults of integrated gradients and of RISE
OCCLUDERS = 7  # default occluders along each side of the picture, with half of one between their places


def gradcam(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2) on the backbone's feature map.

    Args:
        model: in evaluation mode.
        images: float `[B, 3, H, W]`, normalised.
        classes: one class index per image, `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.

    Returns:
        float32 `[B, h, w]`, non-negative, 0 on padding.
    """
    return _gradcam(model, images, padding_mask, classes, None)


def finercam(model: ICN, images: Tensor, classes: Tensor, *, siblings: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Grad-CAM of the difference of two logits, `logit_c - logit_sibling` (Finer-CAM, Zhang et al., CVPR 2025).

    Args:
        siblings: the class that each is to be told apart from, `[B]`; the others as for `gradcam`.
    """
    return _gradcam(model, images, padding_mask, classes, siblings)


def integrated_gradients(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    padding_mask: Tensor | None = None,
    steps: int = STEPS,
    baseline: str = "blur",
    at_once: int = 16,
) -> Tensor:
    """Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) by captum, summed over colours.

    Args:
        steps: of the Gauss-Legendre quadrature between baseline and picture, each a forward and a backward pass.
        baseline: `blur` or `mean`.
        at_once: steps in one pass; the others as for `gradcam`.

    Returns:
        float32 `[B, H, W]`, signed, 0 on padding.

    Raises:
        ValueError: another baseline, or captum is missing.
    """
    captum = _captum("integrated_gradients")
    method = captum.IntegratedGradients(lambda x: model(x).logits)
    with frozen(model):
        maps = _blank(images)
        for place, image, label in _alone(images, classes, padding_mask):
            start = baseline_images(image, baseline)
            attributed = method.attribute(image, start, label, n_steps=steps, internal_batch_size=at_once)
            maps[place] = attributed.detach()[0].sum(0)
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
    at_once: int = 32,
) -> Tensor:
    """Occlusion (Zeiler and Fergus, ECCV 2014) by captum: what the logit loses, averaged over the occluders of a pixel.

    Args:
        window, stride: side and step of the square occluder in pixels; None: half-overlapping, 7 along each side.
        baseline: what the occluder shows, `mean` or `blur`.
        at_once: occluders in one pass; the others as for `gradcam`.

    Returns:
        float32 `[B, H, W]`, signed, 0 on padding.

    Raises:
        ValueError: another baseline, an occluder larger than a picture, or captum is missing.
    """
    captum = _captum("occlusion")
    method = captum.Occlusion(lambda x: model(x).logits)
    maps = _blank(images)
    for place, image, label in _alone(images, classes, padding_mask):
        sides, steps = occluders((image.shape[2], image.shape[3]), window, stride)
        attributed = method.attribute(
            image,
            sliding_window_shapes=(image.shape[1], *sides),
            strides=(image.shape[1], *steps),
            baselines=baseline_images(image, baseline),
            target=label,
            perturbations_per_eval=at_once,
        )
        maps[place] = attributed[0].mean(0)
    return maps


def occluders(
    size: tuple[int, int], window: int | None = None, stride: int | None = None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sides and steps of the occluders of pictures of `size` `(H, W)`; ValueError for those that leave pixels out."""
    if window is not None and not 0 < window <= min(size):
        raise ValueError(f"window {window} must be from 1 to {min(size)}, the shorter side of the picture")
    sides = [window or -(-side // OCCLUDERS) for side in size]
    steps = [stride or max(1, side // 2) for side in sides]
    if not 0 < max(steps) <= min(sides):
        raise ValueError(f"stride {stride} must be from 1 to {min(sides)}, the side of the occluder")
    return (sides[0], sides[1]), (steps[0], steps[1])


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
    """RISE (Petsiuk et al., BMVC 2018, eq. 6): the mean of random masks, weighted by the probability under each, over p.

    A mask is a grid of `cells` x `cells` that are 1 with probability p, enlarged bilinearly to the picture and one cell
    more, and shifted by less than that cell. All pictures see the same grids.

    Args:
        n, p, cells, seed: number of masks, share of a mask that shows the picture, cells a side, and of the generator.
        at_once: masks that are enlarged, and pictures in one pass; the others as for `gradcam`.

    Returns:
        float32 `[B, H, W]`, non-negative, 0 on padding.

    Raises:
        ValueError: `n` or `cells` is below 1, or `p` not between 0 and 1.
    """
    if n < 1 or cells < 1 or not 0 < p < 1:
        raise ValueError(f"RISE needs n >= 1, cells >= 1 and 0 < p < 1, not {n}, {cells} and {p}")
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(n, cells, cells, generator=generator) < p  # bool: the masks of a picture never exist all at once
    shifts = torch.rand(n, 2, generator=generator)  # of a cell
    maps = _blank(images)
    for place, image, label in _alone(images, classes, padding_mask):
        for some, by in zip(grids.split(at_once), shifts.split(at_once), strict=True):
            masks = _enlarged(some.to(image), by, (image.shape[2], image.shape[3]))  # [b, H, W]
            scores = model(image * masks[:, None]).logits.float().softmax(1)[:, label]  # [b]
            maps[place] += torch.einsum("b,bhw->hw", scores, masks.float()) / (n * p)
    return maps


def _enlarged(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """RISE's masks: grids `[b, cells, cells]` to `[b, H, W]`, shifted by parts of a cell `[b, 2]`."""
    cells = grids.shape[1]
    sides = [-(-side // cells) for side in size]  # of a cell, rounded up
    full = [side * (cells + 1) for side in sides]
    masks = F.interpolate(grids[:, None], size=full, mode="bilinear", align_corners=False)[:, 0]
    corners = (shifts * torch.tensor(sides)).long().tolist()
    return torch.stack([m[top : top + size[0], left : left + size[1]] for m, (top, left) in zip(masks, corners, strict=True)])


def _gradcam(model: ICN, images: Tensor, padding_mask: Tensor | None, classes: Tensor, siblings: Tensor | None) -> Tensor:
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor:
        kept.append(start_graph(features))
        return kept[0]

    with frozen(model):
        hook = model.backbone[0].register_forward_hook(keep)
        try:
            logits = model(images, padding_mask).logits
        finally:
            hook.remove()
        score = logits.gather(1, classes[:, None]).sum()
        if siblings is not None:
            score = score - logits.gather(1, siblings[:, None]).sum()
        (slope,) = torch.autograd.grad(score, kept)
    with torch.no_grad():
        features, slope = kept[0].float(), slope.float()  # [B, C', h, w]
        valid = torch.ones_like(features[:, :1])
        if padding_mask is not None:
            valid = 1 - F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])  # [B, 1, h, w]
        weights = (slope * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True)  # [B, C', 1, 1]
        return ((weights * features).sum(1) * valid[:, 0]).clamp(min=0)


def _blank(images: Tensor) -> Tensor:
    return torch.zeros(len(images), *images.shape[2:], device=images.device)


def _alone(
    images: Tensor, classes: Tensor, padding_mask: Tensor | None
) -> Iterator[tuple[tuple[int, slice, slice], Tensor, int]]:
    """For each picture its place in the maps, itself without padding `[1, 3, H', W']`, and its class."""
    for index, label in enumerate(classes.tolist()):
        height, width = images.shape[2:]
        if padding_mask is not None:
            valid = ~padding_mask[index]
            height, width = int(valid.any(1).sum()), int(valid.any(0).sum())
        yield (index, slice(height), slice(width)), images[index : index + 1, :, :height, :width].clone(), label


def _captum(method: str) -> Any:
    try:
        from captum import attr
    except ImportError:
        raise ValueError(f"{method} needs captum, which is not installed: pip install '{CAPTUM}'") from None
    return attr
