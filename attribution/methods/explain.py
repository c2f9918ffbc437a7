"""Attribution maps of a batch by the name of a method, with defaults for all other choices: `attribution.explain`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from attribution.methods.registry import methods_of
from models import ICN


def explain(
    model: ICN,
    images: Tensor,
    classes: Tensor | int | None = None,
    method: str | None = None,
    padding_mask: Tensor | None = None,
    against: Tensor | int | None = None,
    **options: Any,
) -> Tensor:
    """Compute attribution maps of a batch.

    Args:
        model: in evaluation mode.
        images: float `[B, 3, H, W]`, normalised with the mean and standard deviation of the model's metadata.
        classes: the class to explain, one for all images or `[B]`; None for the predicted ones.
        method: a name of `METHODS`; None for the map that represents the model's decoder.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        against: the class to compare with, one for all images or `[B]`: the map is then the contrast of the two. None for the
            map of the class alone, or, where a method only makes contrasts, for the most probable other class.
        options: further arguments of the method, such as `steps`.

    Returns:
        float32 `[B, h, w]` on the grid of the model's features, or `[B, H, W]`; 0 on padding. `attribution.resize.enlarge` brings
        it to the pixels.

    Raises:
        ValueError: the model is in training mode, or the method does not exist, does not apply to the model, is made of ground
            truth, or requires a package that is not installed.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout thins the maps: call model.eval() first")
    (row,) = methods_of(model, [method or model.decoder_spec.default_map])
    if row.knows_ground_truth:
        raise ValueError(f"{row.name} is a map of the ground truth, which explain does not have: choose another method")

    def per_image(chosen: Tensor | int) -> Tensor:
        return torch.as_tensor(chosen, device=images.device).expand(len(images))

    if classes is None or (against is None and row.is_contrast):
        with torch.no_grad():
            logits = model(images, padding_mask).logits  # [B, C]
        classes = per_image(logits.argmax(1) if classes is None else classes)
        if against is None and row.is_contrast:
            against = logits.scatter(1, classes[:, None], -torch.inf).argmax(1)
    make = partial(row.call, model, images, padding_mask=padding_mask, **options)
    if against is None:
        return make(per_image(classes)).detach()
    if row.is_contrast:
        return make(per_image(classes), siblings=per_image(against)).detach()
    return make(per_image(classes)).detach() - make(per_image(against)).detach()
