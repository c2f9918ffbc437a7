"""Pixel maps from input gradients along a path: additive evidence carried on to the pixels, and the contrast of two classes.

A cell of the feature grid is larger than many parts of an object. Gradients along a path of images lead on from the cells to the
pixels. Maps are averaged with those of the mirrored image, because strided convolutions do not treat left and right alike. Both
methods take a model in evaluation mode, images float `[B, 3, H, W]`, normalised, class indices `[B]` and those of siblings, and a
padding mask bool `[B, H, W]`, True on padding, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attribution.baselines import gaussian_blur
from attribution.methods.hooks import frozen
from attribution.resize import crop_padding
from models import ICN
from models.decoders import additive_decoders

BLUR = 1 / 16  # sigma of the blurred image at the start of a path, as a share of the shorter side

STEPS, SMOOTH = 6, 1 / 44  # of `additive_pixels`, and sigma of its map as a share of the shorter side
DIFFERENCE_WEIGHT = 1 / 2  # of the evidence by which a class exceeds its sibling

CONTRAST_STEPS = (5, 4)  # of integrated gradients, and of the descent to the sibling
CONTRAST_SMOOTH = (1 / 36, 1 / 25)  # sigmas of their maps, as shares of the shorter side
NOISE, STRIDE = 0.1, 0.012  # of the descent: standard deviation, and root mean square of a step, in normalised units
DESCENT_WEIGHT = 1.0  # of the descent, which continues past the point where the two logits are equal


def additive_pixels(
    model: ICN, images: Tensor, classes: Tensor, *, siblings: Tensor, padding_mask: Tensor | None = None, steps: int = STEPS
) -> Tensor:
    """Compute the pixels that the evidence of a class comes from, with more weight where it exceeds that of its sibling.

    With `e_c,p` what cell p adds to the logit of class c, the map is made of the integrated gradients (Sundararajan et al.,
    ICML 2017, eq. 1) of two sums over the cells: the positive evidence `sum_p max(0, e_c,p)`, and its excess over the sibling s,
    `sum_p max(0, e_c,p - e_s,p)`. Each is summed over colours, smoothed, and divided by its positive mass; the second counts
    half, and only where it is positive.

    Args:
        steps: from the blurred image to the image, each a forward and two backward passes of the image and of its mirror.

    Returns:
        float32 `[B, H, W]`, signed, 0 on padding. It does not sum to the logit: the cells' own map does.

    Raises:
        ValueError: the decoder is not additive, or fewer than one step.
    """
    if not model.decoder_spec.is_additive:
        raise ValueError(f"additive_pixels is a map of --decoder {additive_decoders()}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return _average_with_mirror(partial(_evidence_gradients, model, steps=steps), model, images, classes, siblings, padding_mask)


def contrast(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    siblings: Tensor,
    padding_mask: Tensor | None = None,
    steps: tuple[int, int] = CONTRAST_STEPS,
    seed: int = 0,
) -> Tensor:
    """Compute the evidence for a class against its sibling: parts that are there, and parts that are missing.

    The first half is the integrated gradient of `f = logit_class - logit_sibling` from the blurred image (Sundararajan et al.,
    ICML 2017, eq. 1). It is blind to a missing part (a wingtip without its winglet), because it weighs a pixel by its distance
    from the blurred one. The second half therefore descends f from the image itself (Pan et al., IJCAI 2021) and sums what f
    loses on the way: `s |g|^2 / ||g||` for steps of length s, with g the gradient of f. Where the shortest way to the sibling
    changes the image, there its part would be: on networks from `--adversarial` training this changes parts, on others it
    changes much that is not visible. Both halves are summed over colours, smoothed and added.

    Args:
        steps: of the two halves, each a forward and a backward pass of the image and of its mirror.
        seed: of the noise along the descent.

    Returns:
        float32 `[B, H, W]`, non-negative, 0 on padding.

    Raises:
        ValueError: a half of fewer than one step.
    """
    if min(steps) < 1:
        raise ValueError(f"steps {steps} must be at least 1 each")
    maps_of = partial(_contrast, model, steps=steps, seed=seed)
    return _average_with_mirror(maps_of, model, images, classes, siblings, padding_mask).clamp(min=0)


def _average_with_mirror(
    maps_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    model: ICN,
    images: Tensor,
    classes: Tensor,
    siblings: Tensor,
    padding_mask: Tensor | None,
) -> Tensor:
    """Return the mean of the maps of images and of their mirrors, with gradients to the pixels alone: float32 `[B, H, W]`.

    `maps_of` is called with images without padding, classes and siblings; it returns `[b, H, W]`.
    """

    def both(x: Tensor, own: Tensor, other: Tensor) -> Tensor:  # copies: tensors of inference mode have no gradients
        x, own, other = x.detach().clone(), own.clone(), other.clone()
        return (maps_of(x, own, other).float() + maps_of(x.flip(-1), own, other).flip(-1).float()) / 2

    with frozen(model):
        if padding_mask is None:
            return both(images, classes, siblings)
        maps = torch.zeros(len(images), *images.shape[2:], device=images.device)
        for index, (region, image) in enumerate(crop_padding(images, padding_mask)):
            row = slice(index, index + 1)
            maps[region] = both(image, classes[row], siblings[row])[0]
        return maps


def path_gradients(functions: Callable[[Tensor], list[Tensor]], images: Tensor, steps: int) -> list[Tensor]:
    """Integrate the gradients of scalar functions of a batch from the blurred images to the images: `[B, 3, H, W]` each."""
    path = images - gaussian_blur(images, BLUR * min(images.shape[-2:]))
    sums: list[Tensor] = []
    for step in range(steps):
        x = (images - (1 - (step + 0.5) / steps) * path).detach().requires_grad_()
        values = functions(x)
        gradients = [torch.autograd.grad(value, x, retain_graph=value is not values[-1])[0].float() for value in values]
        sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)] if sums else gradients
    return [total / steps * path for total in sums]


def _evidence_gradients(model: ICN, images: Tensor, classes: Tensor, siblings: Tensor, steps: int) -> Tensor:
    pair = torch.stack([classes, siblings], 1)

    def sums(x: Tensor) -> list[Tensor]:
        own, other = model.evidence(x, None, pair)[1].float().unbind(1)  # [B, h, w]
        return [evidence.clamp(min=0).sum() for evidence in (own, own - other)]

    sigma = SMOOTH * min(images.shape[-2:])
    own, excess = (_shares(gaussian_blur(gradient.sum(1), sigma)) for gradient in path_gradients(sums, images, steps))
    return own + DIFFERENCE_WEIGHT * excess.clamp(min=0)


def _shares(maps: Tensor) -> Tensor:
    """Divide maps `[B, H, W]` by the sum of their positive values."""
    mass = maps.clamp(min=0).sum((-2, -1), keepdim=True)
    return maps / mass.clamp(min=torch.finfo(maps.dtype).tiny)


def _contrast(model: ICN, images: Tensor, classes: Tensor, siblings: Tensor, steps: tuple[int, int], seed: int) -> Tensor:
    def difference(x: Tensor) -> Tensor:
        logits = model(x).logits.float()
        return (logits.gather(1, classes[:, None]) - logits.gather(1, siblings[:, None])).sum()

    side = min(images.shape[-2:])
    (present,) = path_gradients(lambda x: [difference(x)], images, steps[0])  # [B, 3, H, W]
    missing = _descend(difference, images, steps[1], seed)
    present, missing = (gaussian_blur(x.sum(1), s * side) for x, s in zip((present, missing), CONTRAST_SMOOTH, strict=True))
    return present + DESCENT_WEIGHT * missing


def _descend(function: Callable[[Tensor], Tensor], images: Tensor, steps: int, seed: int) -> Tensor:
    """Descend a scalar function from the images, and return what it loses at each value of them: `[B, 3, H, W]`."""
    generator = torch.Generator().manual_seed(seed)
    length = STRIDE * math.sqrt(images[0].numel())
    losses, position = torch.zeros_like(images, dtype=torch.float32), images
    for _ in range(steps):
        # The same noise for all: no image's map depends on the others.
        noise = NOISE * torch.randn(images.shape[1:], generator=generator).to(images)
        x = (position + noise).detach().to(images.dtype).requires_grad_()
        gradient = torch.autograd.grad(function(x), x)[0].float()
        norm = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)[:, None, None, None]
        losses += length * gradient.square() / norm
        position = position - length * gradient / norm
    return losses
