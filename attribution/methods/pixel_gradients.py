"""The additive map carried on to the pixels: what in the picture made the cells say what they say.

A cell of the map knows its place only to its side, and an object that is thinner than a cell is missed beside it. Integrated
gradients of what the cells add lead on from the cell to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attribution.baselines import gaussian_blur
from attribution.methods.hooks import frozen
from attribution.methods.posthoc import _alone, _blank
from models import ICN
from models.decoders import additive_decoders

STEPS = 6
BLUR, SMOOTH = 1 / 16, 1 / 44  # sigmas of the baseline and of the map, shares of the picture's shorter side
APART = 1 / 2  # weight of what separates from the sibling


def additive_pixels(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    siblings: Tensor,
    padding_mask: Tensor | None = None,
    steps: int = STEPS,
) -> Tensor:
    """Which pixels the evidence of a class comes from; those by which it exceeds its sibling's count more.

    With `e_c,p` what cell p adds to the logit of class c, the integrated gradients (Sundararajan et al., ICML 2017, eq. 1)
    of two sums over the cells: `sum_p max(0, e_c,p)`, which is what speaks for the class, and `sum_p max(0, e_c,p - e_s,p)`,
    which is where it speaks louder than for the sibling s. Each is summed over colours, smoothed, and divided by its positive
    mass; the second counts half, and only where it is positive. The map is averaged with that of the mirrored picture:
    strided convolutions do not treat left and right alike.

    Args:
        model: in evaluation mode, of `--decoder additive` or `none`.
        images: float `[B, 3, H, W]`, normalised.
        classes, siblings: class indices `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        steps: between the blurred picture and the picture, each a forward pass and two backward ones of the picture and
            of its mirror.

    Returns:
        float32 `[B, H, W]`, signed, 0 on padding. It does not sum to the logit: the cells' own map does.

    Raises:
        ValueError: the decoder does not add, or fewer than one step.
    """
    if not model.decoder_spec.is_additive:
        raise ValueError(f"additive_pixels is a map of --decoder {additive_decoders()}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return of_pairs(partial(_carried, model, steps=steps), model, images, classes, siblings, padding_mask)


def _carried(model: ICN, images: Tensor, classes: Tensor, siblings: Tensor, steps: int) -> Tensor:
    pair = torch.stack([classes, siblings], 1)

    def sums(x: Tensor) -> list[Tensor]:
        own, other = model.evidence(x, None, pair)[1].float().unbind(1)  # [B, h, w]
        return [said.clamp(min=0).sum() for said in (own, own - other)]

    sigma = SMOOTH * min(images.shape[-2:])
    for_class, apart = (_shares(gaussian_blur(one.sum(1), sigma)) for one in path_gradients(sums, images, steps))
    return for_class + APART * apart.clamp(min=0)


def of_pairs(
    maps_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    model: ICN,
    images: Tensor,
    classes: Tensor,
    siblings: Tensor,
    padding_mask: Tensor | None,
) -> Tensor:
    """The mean of the maps of pictures and of their mirrors, with gradients to the pixels alone.

    Args:
        maps_of: called with images without padding, classes and siblings; returns `[b, H, W]`.

    Returns:
        float32 `[B, H, W]`, 0 on padding.
    """

    def both(x: Tensor, one: Tensor, other: Tensor) -> Tensor:  # copies: tensors of inference mode have no gradients
        x, one, other = x.detach().clone(), one.clone(), other.clone()
        return (maps_of(x, one, other).float() + maps_of(x.flip(-1), one, other).flip(-1).float()) / 2

    with frozen(model):
        if padding_mask is None:
            return both(images, classes, siblings)
        maps = _blank(images)
        for place, image, _ in _alone(images, classes, padding_mask):
            of = slice(place[0], place[0] + 1)
            maps[place] = both(image, classes[of], siblings[of])[0]
        return maps


def path_gradients(functions: Callable[[Tensor], list[Tensor]], images: Tensor, steps: int) -> list[Tensor]:
    """Of scalar functions of a batch of pictures, along the straight way from the blurred pictures: `[B, 3, H, W]` each."""
    away = images - gaussian_blur(images, BLUR * min(images.shape[-2:]))
    found: list[Tensor] = []
    for step in range(steps):
        x = (images - (1 - (step + 0.5) / steps) * away).detach().requires_grad_()
        values = functions(x)
        slopes = [torch.autograd.grad(value, x, retain_graph=value is not values[-1])[0].float() for value in values]
        found = [so_far + slope for so_far, slope in zip(found, slopes, strict=True)] if found else slopes
    return [one / steps * away for one in found]


def _shares(maps: Tensor) -> Tensor:
    """Maps `[B, H, W]` whose positive values sum to one."""
    mass = maps.clamp(min=0).sum((-2, -1), keepdim=True)
    return maps / mass.clamp(min=torch.finfo(maps.dtype).tiny)
