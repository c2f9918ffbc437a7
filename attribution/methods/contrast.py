"""What separates a class from its sibling, to the pixel: the part that is there, and the part that is not.

A logit's difference is carried on from cells to pixels through the backbone. Integrated gradients find the evidence that is
in the picture; they are blind to what is missing from it (a wingtip without its winglet), because they weigh each pixel by
how far it is from a blurred one. So the second half walks to the sibling: where the shortest way to the other class changes
the picture, there the sibling's part would be. Both are in units of the logit, and are added up. On networks that were
trained with `--adversarial` that way changes parts; on others it changes much that no eye would call evidence.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from attribution.baselines import gaussian_blur
from attribution.methods.pixel_gradients import of_pairs, path_gradients
from models import ICN

STEPS = (8, 16)  # of the two halves
SMOOTH = (1 / 36, 1 / 25)  # sigmas of the halves, shares of the picture's shorter side
NOISE, STRIDE = 0.1, 0.0045  # along the way: standard deviation, and root mean square of a step; in normalised units
WAY = 1 / 2  # weight of the second half, which walks past the point where the classes are even


def contrast(
    model: ICN,
    images: Tensor,
    classes: Tensor,
    *,
    siblings: Tensor,
    padding_mask: Tensor | None = None,
    steps: tuple[int, int] = STEPS,
    seed: int = 0,
) -> Tensor:
    """Where the picture says `class` and not `sibling`.

    The first half is the integrated gradient of `f = logit_class - logit_sibling` from the blurred picture (Sundararajan et
    al., ICML 2017, eq. 1); the second the sum of `s |g|^2 / ||g||`, g the gradient of f, along steps of length s down that
    gradient from the picture itself: what f loses on its way to the sibling (Pan et al., IJCAI 2021). Both are summed over
    colours, smoothed, and averaged with those of the mirrored picture, which is of the same class and has other noise.

    Args:
        model: in evaluation mode.
        images: float `[B, 3, H, W]`, normalised.
        classes, siblings: class indices `[B]`.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        steps: of the two halves, each a forward and a backward pass of the picture and of its mirror.
        seed: of the noise along the way.

    Returns:
        float32 `[B, H, W]`, non-negative, 0 on padding.

    Raises:
        ValueError: a half of fewer than one step.
    """
    if min(steps) < 1:
        raise ValueError(f"steps {steps} must be at least 1 each")
    maps_of = partial(_contrast, model, steps=steps, seed=seed)
    return of_pairs(maps_of, model, images, classes, siblings, padding_mask).clamp(min=0)


def _contrast(model: ICN, images: Tensor, classes: Tensor, siblings: Tensor, steps: tuple[int, int], seed: int) -> Tensor:
    def difference(x: Tensor) -> Tensor:
        logits = model(x).logits.float()
        return (logits.gather(1, classes[:, None]) - logits.gather(1, siblings[:, None])).sum()

    def slope(x: Tensor) -> Tensor:
        x = x.detach().to(images.dtype).requires_grad_()
        return torch.autograd.grad(difference(x), x)[0].float()

    side = min(images.shape[-2:])
    (there,) = path_gradients(lambda x: [difference(x)], images, steps[0])  # [B, 3, H, W]
    generator = torch.Generator().manual_seed(seed)
    length = STRIDE * math.sqrt(images[0].numel())
    missing, place = torch.zeros_like(there), images
    for _ in range(steps[1]):
        # The same for all: no picture's map depends on the others.
        noise = NOISE * torch.randn(images.shape[1:], generator=generator).to(images)
        down = slope(place + noise)
        norm = down.flatten(1).norm(dim=1).clamp(min=torch.finfo(down.dtype).tiny)[:, None, None, None]
        missing += length * down.square() / norm
        place = place - length * down / norm
    return gaussian_blur(there.sum(1), SMOOTH[0] * side) + WAY * gaussian_blur(missing.sum(1), SMOOTH[1] * side)
