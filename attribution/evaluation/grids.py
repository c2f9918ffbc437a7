"""Grids of images of different classes: how much of the map of a class lies on its own image (Rao et al., CVPR 2022).

Settings, by what a class's logit can depend on:

- `gridpg` (grid pointing game): the model sees the whole grid, and nothing forbids a logit to depend on other images.
- `difull`: the images go through the backbone one by one, and the transformer sees the cells of one image alone: no logit depends
  on another image, and a map that lies elsewhere is wrong.
- `dipart`: the backbone sees the whole grid, the transformer the cells of one image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribution.evaluation.harness import Harness
from attribution.methods.registry import Method
from attribution.metrics.grids import cell_shares
from models import ICN, ICNOutput
from util.progress import Progress

SETTINGS = ("gridpg", "difull", "dipart")
IMAGES_PER_CLASS = 10  # that grids are made of, where fewer are confident enough


@dataclass(frozen=True)
class Candidates:
    """Images that grids are made of.

    Attributes:
        by_class: places in the split by class, the most confident first; classes without an image are left out.
        lowest: the lowest probability of the true class among them.
        below: how many of them do not reach the confidence that was asked for.
    """

    by_class: dict[int, list[int]]
    lowest: float
    below: int


def choose_images(probabilities: Tensor, predicted: Tensor, labels: Sequence[int], confidence: float, classes: int) -> Candidates:
    """Choose the images that are classified right with a probability of at least `confidence`.

    A class with fewer than `IMAGES_PER_CLASS` of them has its most confident right ones, up to that number: label smoothing and
    binary cross-entropy keep probabilities low.

    Args:
        probabilities, predicted: of the predicted class of each image, `[N]`, and its index.

    Raises:
        ValueError: fewer than `classes` classes have an image that is classified right.
    """
    order = sorted(range(len(labels)), key=lambda place: (-float(probabilities[place]), place))
    right = [place for place in order if int(predicted[place]) == labels[place]]
    by_class: dict[int, list[int]] = {}
    for place in right:
        of_class = by_class.setdefault(labels[place], [])
        if float(probabilities[place]) >= confidence or len(of_class) < IMAGES_PER_CLASS:
            of_class.append(place)
    if len(by_class) < classes:
        raise ValueError(f"a grid needs {classes} classes with an image that is classified right, and there are {len(by_class)}")
    chosen = [place for places in by_class.values() for place in places]
    confident = [float(probabilities[place]) for place in chosen]
    return Candidates(by_class, min(confident), sum(value < confidence for value in confident))


def draw_grids(candidates: Candidates, n: int, count: int, seed: int) -> list[list[int]]:
    """Draw `count` grids of n x n images of distinct classes: places in the split, row by row.

    Classes are equally likely; an image of a class comes again only when all of them have been used.
    """
    generator = torch.Generator().manual_seed(seed)
    names = sorted(candidates.by_class)
    unused: dict[int, list[int]] = {name: [] for name in names}
    grids = []
    for _ in range(count):
        grid = []
        for index in torch.randperm(len(names), generator=generator)[: n * n].tolist():
            places = candidates.by_class[names[index]]
            if not unused[names[index]]:
                unused[names[index]] = [places[i] for i in torch.randperm(len(places), generator=generator).tolist()]
            grid.append(unused[names[index]].pop())
        grids.append(grid)
    return grids


def join(images: Tensor) -> Tensor:
    """Join images `[B, n * n, 3, H, W]` to grids, row by row: `[B, 3, n * H, n * W]`."""
    n = round(images.shape[1] ** 0.5)
    rows = images.unflatten(1, (n, n)).permute(0, 3, 1, 4, 2, 5)  # [B, 3, n, H, n, W]
    return rows.flatten(4, 5).flatten(2, 3)


class _ConnectedTo(ICN):
    """A model whose transformer sees some pixels alone; `hidden`, bool `[1, H, W]`, is True on all others."""

    hidden: Tensor

    def forward(self, images: Tensor, padding_mask: Tensor | None = None, *, attention: Any = None) -> ICNOutput:
        return super().forward(images, self.hidden.expand(len(images), -1, -1), attention=attention)

    def evidence_of(self, memory: Tensor, padding_mask: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        return super().evidence_of(memory, self.hidden.expand(len(memory), -1, -1), classes)


@contextmanager
def connected_to(model: ICN, cell: int, n: int, side: int, setting: str) -> Iterator[ICN]:
    """Yield the model of a setting whose logits depend on one image of an n x n grid.

    Args:
        cell: number of the image, row by row.
        side: of an image in pixels, a multiple of the backbone's stride.
        setting: `difull` or `dipart`.

    Raises:
        ValueError: in `difull`, the windows of a backbone that has them do not divide an image.
    """
    backbone: Any = model.backbone[0]
    window = backbone.window
    if setting == "difull" and window is not None and side % window:
        raise ValueError(
            f"--settings difull: images of {side} pixels are no multiple of the model's --window {window}: leave it out"
        )
    connected = copy.copy(model)  # shares all parameters
    connected.__class__ = _ConnectedTo
    assert isinstance(connected, _ConnectedTo)
    hidden = torch.ones(1, n * side, n * side, dtype=torch.bool, device=next(model.parameters()).device)
    row, column = divmod(cell, n)
    hidden[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = False
    connected.hidden = hidden
    if setting == "difull" and window is None:
        backbone.window = side
    try:
        yield connected
    finally:
        backbone.window = window


def measure_grids(
    harness: Harness, methods: Sequence[Method], grids: Sequence[Sequence[int]], load: Callable[[Sequence[int]], Tensor],
    labels: Sequence[int], setting: str, batch_size: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Measure which share of the positive mass of each class's map lies on its own image.

    Args:
        grids: places of n x n images, see `draw_grids`.
        load: images of places, normalised `[N, 3, side, side]`.
        labels: of the split.
        batch_size: images in one pass.

    Returns:
        For each method `[len(grids), n * n]`.
    """
    n = round(len(grids[0]) ** 0.5)
    shares: dict[str, list[Tensor]] = {method.name: [] for method in methods}
    at_once = max(1, batch_size // (n * n))
    with Progress(len(grids) * len(methods), f"{setting}, {n} x {n}") as progress:
        for start in range(0, len(grids), at_once):
            chosen = grids[start : start + at_once]
            pictures = load([place for grid in chosen for place in grid]).unflatten(0, (len(chosen), n * n))
            images = join(pictures).contiguous(memory_format=torch.channels_last)
            classes = torch.tensor([[labels[place] for place in grid] for grid in chosen], device=images.device)  # [B, n * n]
            for method in methods:
                progress.step(0, method.name)
                maps = _maps(harness, method, images, classes, setting, pictures.shape[-1])  # [B, n * n, h, w]
                own = cell_shares(maps.flatten(0, 1), n).unflatten(0, classes.shape)  # [B, n * n, n * n]
                shares[method.name].append(own.diagonal(dim1=1, dim2=2).cpu())
                progress.step(len(chosen))
    return {name: torch.cat(parts) for name, parts in shares.items()}


def _maps(harness: Harness, method: Method, images: Tensor, classes: Tensor, setting: str, side: int) -> Tensor:
    """Return the maps of all classes of each grid, `[B, n * n, h, w]`."""
    if setting == "gridpg" or method.family == "control":
        return harness.maps_of_classes(method, images, classes)
    n = images.shape[-1] // side
    model = harness.model if harness.budget.passes(method, images).backward else harness.inference
    maps = []
    for cell, column in enumerate(classes.unbind(1)):
        with connected_to(model, cell, n, side, setting) as connected:
            maps.append(harness.maps(method, images, column, model=connected))
    return torch.stack(maps, 1)
