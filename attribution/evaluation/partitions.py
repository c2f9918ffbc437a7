"""Partitions of an image into regions: by the heads of a model, and by controls that do not know what the heads attend to.

A head's region is where its map is larger than that of the other heads; every control has as many regions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from attribution.methods.hooks import class_attention
from attribution.metrics.heads import number_of_heads
from attribution.metrics.metric import Unit
from attribution.resize import pool_to
from datasets.planes import PARTS
from models import ICN

DRAWS = 5  # of random projections
RESTARTS, ITERATIONS = 3, 30  # of k-means
FIT_CELLS = 10_000  # cells that k-means sees, at most
HEADS = ("attention of the heads", "evidence of the heads")
OBJECT_KMEANS = "k-means of the object's features"
KMEANS, RANDOM, GRID = "k-means of the features", "random projections of the features", "fixed grid"
ORACLE = "true parts at the model's grid"

Directions = Mapping[str, tuple[Tensor, Tensor]]  # of each control [draws, regions, D] and offsets [draws, regions]


class Maps(NamedTuple):
    """The maps of a partition, `[D, B, K, h, w]`: D draws, K regions.

    soft: the centre of a region is that of the (non-negative) map, not that of the cells where it is the largest.
    """

    values: Tensor
    soft: bool


@torch.no_grad()
def unit_features(model: ICN, images: Tensor) -> Tensor:
    """Return the features that the decoder attends to, of length 1 in each cell: `[B, D, h, w]`."""
    return F.normalize(model(images).features.float(), dim=1)


def fit_controls(cells: Tensor, on_object: Tensor, regions: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Fit partitions of features to cells `[n, D]`, some of which lie on the object, bool `[n]`.

    Returns:
        for each control directions `[D', regions, D]` and offsets `[D', regions]` of D' draws: the region of a feature is that of
        the largest product with a direction, plus the offset.
    """
    rng = np.random.default_rng(seed)
    centred = torch.from_numpy(rng.normal(size=(DRAWS, regions, cells.shape[1]))).float()
    controls = {RANDOM: (centred, -centred @ cells.mean(0))}
    for name, chosen in ((KMEANS, cells), (OBJECT_KMEANS, cells[on_object])):
        if len(chosen) >= regions:
            centres = cluster(chosen.double().numpy(), regions, rng)[None]
            controls[name] = centres, -(centres**2).sum(-1) / 2  # the nearest centre has the largest c x - c c / 2
    return controls


def cluster(cells: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """Return the centres `[count, D]` of k-means of cells `[n, D]`, the best of several starts by k-means++."""
    best, least = cells[:count], np.inf
    for _ in range(RESTARTS):
        start = [cells[rng.integers(len(cells))]]
        nearest = np.full(len(cells), np.inf)
        while len(start) < count:  # k-means++ (Arthur and Vassilvitskii, 2007)
            nearest = np.minimum(nearest, ((cells - start[-1]) ** 2).sum(1))
            total = nearest.sum()
            start.append(cells[rng.choice(len(cells), p=nearest / total if total > 0 else None)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty cluster, which stays where it was
            centres, _ = kmeans2(cells, np.array(start), iter=ITERATIONS, minit="matrix")
        error = float(vq(cells, centres)[1].sum())
        if error < least:
            best, least = centres, error
    return torch.from_numpy(np.ascontiguousarray(best)).float()


def partitions(model: ICN, unit: Unit, controls: Directions, parts: Tensor | None) -> dict[str, Maps]:
    """Return the maps of all partitions of a unit's images, on the CPU; `parts` `[B, H, W]`, -1 outside of the object."""
    features = unit_features(model, unit.images)  # [B, D, h, w]
    grid = features.shape[2], features.shape[3]
    heads = head_maps(model, unit.images, unit.classes)
    found = {name: Maps(maps.float().cpu()[None], True) for name, maps in heads.items()}
    cells = features.flatten(2).cpu()
    for name, (directions, offsets) in controls.items():
        scores = torch.einsum("nkd,bdp->nbkp", directions, cells) + offsets[:, None, :, None]
        found[name] = Maps(scores.unflatten(-1, grid), False)
    regions = next(iter(heads.values())).shape[1]
    found[GRID] = Maps(fixed_grid(regions, grid).expand(1, len(unit), -1, -1, -1), True)
    if parts is not None:
        masks = F.one_hot(parts + 1, len(PARTS) + 1)[..., 1:].movedim(-1, 1).float()  # [B, G, H, W]
        found[ORACLE] = Maps(pool_to(masks.flatten(0, 1), grid).unflatten(0, masks.shape[:2])[None], True)
    return found


@torch.no_grad()
def head_maps(model: ICN, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Return the maps of the heads for a class `[B]`, `[B, heads, h, w]`: the attention of the last layer and, of an additive
    decoder, what each head adds to the logit."""
    maps = {HEADS[0]: class_attention(model, images, None, lambda logits: classes[:, None])[1][:, 0]}
    if model.decoder_spec.is_additive:
        memory, decoder = model(images).features, model.transformer.decoder
        query, weight = model.query_embed.weight[classes], model.presence_vector.weight[classes]  # type: ignore[index]  # [B, D]
        heads = number_of_heads(model)
        owner = torch.arange(weight.shape[1], device=weight.device) // (weight.shape[1] // heads)
        own = weight[:, None] * (owner == torch.arange(heads, device=weight.device)[:, None])  # [B, heads, D]: the others are 0
        evidence = decoder.evidence(query[:, None].expand_as(own), own, memory.flatten(2).transpose(1, 2), None)
        maps[HEADS[1]] = evidence.unflatten(-1, memory.shape[-2:])
    return maps


def fixed_grid(regions: int, grid: tuple[int, int]) -> Tensor:
    """Return maps `[K, h, w]` that divide every image into K equal cells, as square as their number allows."""
    rows = max(divisor for divisor in range(1, regions + 1) if regions % divisor == 0 and divisor**2 <= regions)
    columns = regions // rows
    y, x = (torch.arange(side) * count // side for side, count in zip(grid, (rows, columns), strict=True))
    return F.one_hot(y[:, None] * columns + x, regions).movedim(-1, 0).float()
