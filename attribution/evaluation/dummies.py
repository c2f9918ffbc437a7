"""Controls of an evaluation that depend on the map that represents ICN, or say nothing, and maps that turn out to be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.methods.registry import Method
from attribution.metrics.registry import NATIVE
from models import ICN

OTHER_CLASS, CONSTANT = "other_class", "constant"
FIXED_PLACE = "fixed_place"  # of factorial planes: the best map that does not depend on the image
SAME = 1e-6  # largest difference of two maps, over their largest value, that are taken for one
SAME_SCORE = 0.01  # and of their mean scores: rounding breaks ties of pixels
UNLIKE = ("ms", "max_sensitivity")  # scores of how a map is made


def dummies(model: ICN, ours: Method, options: Mapping[str, int]) -> list[Method]:
    """Return the controls that are no methods of their own: maps without information on the class, or on anything.

    `other_class` is the map `ours`, made with `options`, of the class that the explained one is most confused with (the map of a
    model of one class has none); `constant` is the same everywhere.
    """

    def explain_sibling(model: ICN, images: Tensor, classes: Tensor, *, siblings: Tensor, **more: Any) -> Tensor:
        known = {"siblings": classes} if ours.is_contrast else {}
        return ours.call(model, images, siblings, **known, **options, **more)

    other = replace(
        ours, name=OTHER_CLASS, label="same map of the most similar class", family="control", call=explain_sibling,
        needs=("siblings",), cost=lambda size: ours.passes(size, options), quick={}, variant_of="",
    )  # fmt: skip
    constant = Method(CONSTANT, "control", _constant, label="the same everywhere")
    return [*([other] if model.num_classes > 1 else []), constant]


def _constant(model: object, images: Tensor, classes: Tensor) -> Tensor:
    return torch.ones(len(images), *images.shape[2:], device=images.device)


def find_same(measured: Mapping[str, Mapping[str, Any]], ours: str) -> dict[str, str]:
    """Return which maps are another one on this model and these images, up to a factor: names and the map that they are.

    Maps of a resolution of their own are never taken for others.

    Args:
        measured: of each method, from `measure.collect`: pooled `maps` `[h, w]` of the predicted classes, and `values`, which
            are also of maps of other classes.
        ours: the map that is kept of those that are the same; else the first one.
    """
    same: dict[str, str] = {}
    kept: list[str] = []
    for name in [ours, *(name for name in measured if name != ours)]:
        if any(column.endswith(NATIVE) for column in measured[name]["values"]):
            continue
        found = next((other for other in kept if _alike(measured[name], measured[other])), None)
        if found is None:
            kept.append(name)
        else:
            same[name] = found
    return same


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    maps = zip(first["maps"], second["maps"], strict=True)
    if not all(bool(((_scaled(one) - _scaled(other)).abs() <= SAME).all()) for one, other in maps):
        return False
    means = [{key: x[np.isfinite(x)] for key, x in each["values"].items() if key not in UNLIKE} for each in (first, second)]
    one, other = ({key: x.mean() for key, x in columns.items() if len(x)} for columns in means)
    return one.keys() == other.keys() and all(abs(one[key] - other[key]) <= SAME_SCORE for key in one)


def _scaled(values: Tensor) -> Tensor:
    values = values.double()
    return values / values.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
