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
        ValueError: the model is in training mode; an argument has another shape, type or range; an image is padding alone; a
            class is compared with itself; or the method does not exist, does not apply to the model, is made of ground truth, has
            no class to compare, or requires a package that is not installed.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout thins the maps: call model.eval() first")
    (row,) = methods_of(model, [method or model.decoder_spec.default_map], truth=())
    _check_images(images, padding_mask)
    if against is not None and row.family == "control":
        raise ValueError(f"{row.name} is a control, a map of no class: there is nothing to compare, leave against out")

    def per_image(chosen: Tensor | int) -> Tensor:
        return _class_indices(chosen, model.num_classes, len(images)).to(images.device)

    others = None if against is None else per_image(against)
    if classes is None or (others is None and row.is_contrast):
        with torch.no_grad():
            logits = model(images, padding_mask).logits  # [B, C]
        classes = logits.argmax(1) if classes is None else classes
    chosen = per_image(classes)
    if others is not None and (same := (chosen == others).nonzero().flatten().tolist()):
        raise ValueError(f"image {same[0]}: its class is compared with itself (against): choose another")
    if others is None and row.is_contrast:
        others = logits.scatter(1, chosen[:, None], -torch.inf).argmax(1)
    make = partial(row.call, model, images, padding_mask=padding_mask, **options)
    if others is None:
        return make(chosen).detach()
    if row.is_contrast:
        return make(chosen, siblings=others).detach()
    return make(chosen).detach() - make(others).detach()


def _check_images(images: Tensor, padding_mask: Tensor | None) -> None:
    """Raise a ValueError unless images are finite floats `[B, 3, H, W]`, and their padding, if any, bool and not all of one."""
    if images.dim() != 4 or images.shape[1] != 3 or not images.numel() or not images.is_floating_point():
        raise ValueError(f"images must be float [B, 3, H, W] and not empty, not {images.dtype} {list(images.shape)}")
    if not images.isfinite().all():
        raise ValueError("images must be finite: a value is NaN or infinite")
    if padding_mask is None:
        return
    expected = [len(images), *images.shape[2:]]
    if padding_mask.dtype != torch.bool or list(padding_mask.shape) != expected:
        raise ValueError(f"padding_mask must be bool {expected}, not {padding_mask.dtype} {list(padding_mask.shape)}")
    if rows := padding_mask.flatten(1).all(1).nonzero().flatten().tolist():
        raise ValueError(f"padding_mask: image {rows[0]} is padding alone, it has no map: leave it out")


def _class_indices(chosen: Tensor | int, count: int, images: int) -> Tensor:
    """Return a class index for each image, int64 `[B]`; a ValueError for values that are no indices below `count`."""
    indices = torch.as_tensor(chosen)
    whole = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    if not whole or list(indices.shape) not in ([], [1], [images]) or not ((indices >= 0) & (indices < count)).all():
        what = f"{indices.dtype} {list(indices.shape)}" if indices.dim() else repr(chosen)
        raise ValueError(f"classes must be indices from 0 to {count - 1}, one for all or one for each of {images}, not {what}")
    return indices.long().expand(images)
