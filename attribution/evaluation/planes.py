"""Scores of maps on factorial planes, as columns: the mean over slots, and one column per slot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from attribution.metrics.batch import Columns, pooled
from attribution.planes.ground_truth import Prepare
from attribution.planes.metrics import PlanesMetrics
from datasets.planes.dataset import PlanesSplit
from models import ICN
from util.progress import Progress
from util.ranks import Ranks


def build_planes_metrics(
    split: PlanesSplit, inference: ICN, paths: Sequence[Path], prepare: Prepare, *, size: int, batch_size: int, ranks: Ranks
) -> PlanesMetrics:
    """Render and score the counterfactuals of the images at `paths`; arguments as of `PlanesMetrics`."""

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        return inference(images.to(memory_format=torch.channels_last)).logits

    with Progress(1, "counterfactuals") as progress:

        def step(done: int, total: int) -> None:
            progress.total = total
            progress.step(done - progress.done)

        return PlanesMetrics(split, paths, prepare, logits, size=size, batch_size=batch_size, progress=step, ranks=ranks)


def planes_columns(
    planes: PlanesMetrics, maps: Tensor, contrasts: Tensor | None, rows: slice, count: int, grid: tuple[int, int] | None
) -> Columns:
    """Compute the scores of maps on planes.

    Args:
        maps, contrasts: of the first images of a unit, as of `PlanesMetrics.measure`.
        rows: the places of these images.
        count: how many images the unit has.
        grid: to which the maps are pooled; None: they are scored at their own resolution.
    """
    if grid is not None:
        maps, contrasts = pooled(maps, grid), None if contrasts is None else pooled(contrasts, grid)
    scores = planes.measure(maps, contrasts, rows)
    # A mean over slots is in float64, but of maps at their own resolution in float32, as in every result so far.
    return slot_columns(scores, planes.slots, count, torch.float32 if grid is None else torch.float64)


def slot_columns(scores: Columns, slots: Sequence[str], count: int, dtype: torch.dtype = torch.float64) -> Columns:
    """Return one number per image, `[count]`: the mean over slots, and one column per slot, `<metric>/<slot>`.

    Args:
        scores: of the first images, `[n]` or `[n, slots]`; nan fills the columns beyond them.
    """
    columns = {}
    for name, score in scores.items():
        wide = torch.full((count, *score.shape[1:]), torch.nan, dtype=dtype)
        wide[: len(score)] = score
        columns[name] = wide.mean(1) if wide.dim() == 2 else wide
        if wide.dim() == 2:
            columns |= {f"{name}/{slot}": wide[:, place] for place, slot in enumerate(slots)}
    return columns
