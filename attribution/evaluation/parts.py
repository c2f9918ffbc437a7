"""Whether the heads of a model follow the parts of the object, beside the controls of `partitions`.

All maps are enlarged to the network's input by one kernel before a pixel gets its region.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attribution.evaluation.inputs import Inputs, MeasuredImages
from attribution.evaluation.partitions import FIT_CELLS, Directions, fit_controls, partitions, unit_features
from attribution.metrics.heads import number_of_heads
from attribution.metrics.parts import Partition, centroids, count_regions, regression_errors
from attribution.metrics.registry import METRICS
from attribution.metrics.statistics import resampled_means
from attribution.resize import enlarge, pool_to
from datasets.planes import PARTS
from util.progress import Progress
from util.ranks import Ranks

Counts = dict[str, dict[str, Tensor]]  # of each partition: `pixels`, `points` [N, D, G, K], `centres` [N, D, K, 2]


def measure_parts(inputs: Inputs, images: MeasuredImages, ranks: Ranks) -> Counts:
    """Count, for every image, in which regions its parts lie, by the heads and by the controls.

    The images are shared by the processes; all have all results.
    """
    assert inputs.parts is not None
    regions = number_of_heads(inputs.model)
    own = range(len(images.units))[ranks.rank :: ranks.size]
    with Progress(2 * len(images), "parts") as progress:
        sampled: list[tuple[Tensor, Tensor]] = []
        for number, part in ranks.gather_in_order((each, _sample(inputs, images, each)) for each in own):
            sampled.append(part)
            progress.step(images.units[number])
        cells, on_object = (torch.cat(column) for column in zip(*sampled, strict=True))
        controls = fit_controls(cells, on_object, regions, inputs.args.seed)
        groups: dict[str, dict[str, list[Tensor]]] = {}
        for number, found in ranks.gather_in_order((each, _count(inputs, images, each, controls)) for each in own):
            for name, columns in found.items():
                for column, values in columns.items():
                    groups.setdefault(name, {}).setdefault(column, []).append(values)
            progress.step(images.units[number])
    return {name: {column: torch.cat(parts) for column, parts in columns.items()} for name, columns in groups.items()}


def _sample(inputs: Inputs, images: MeasuredImages, number: int) -> tuple[Tensor, Tensor]:
    """Return features `[n, D]` of random cells of a unit, and which of them lie on the object, bool `[n]`."""
    unit = images.load(number)
    features = unit_features(inputs.inference, unit.images)
    grid = features.shape[2:]
    inside = torch.zeros(len(unit), *grid) if unit.masks is None else pool_to(unit.masks, (grid[0], grid[1])).cpu()
    cells, on_object = features.flatten(2).transpose(1, 2).cpu(), inside.flatten(1) >= 0.5  # [B, h*w, D], [B, h*w]
    count = min(cells.shape[1], -(-FIT_CELLS // len(images)))
    generator = torch.Generator().manual_seed(inputs.args.seed * 100_003 + number)
    chosen = torch.stack([torch.randperm(cells.shape[1], generator=generator)[:count] for _ in range(len(unit))])
    rows = torch.arange(len(unit))[:, None]
    return cells[rows, chosen].flatten(0, 1), on_object[rows, chosen].flatten()


def _count(inputs: Inputs, images: MeasuredImages, number: int, controls: Directions) -> Counts:
    """Count the parts in the regions of every partition of a unit."""
    assert inputs.parts is not None
    unit = images.load(number)
    pictures, size = images.paths[unit.rows], images.sizes[unit.rows.start]
    known = inputs.parts.key_points(pictures)
    points = torch.from_numpy(known.points)  # [B, G, 2]
    drawn = [drawn for picture in pictures if (drawn := inputs.parts.part_map(picture, size[0])) is not None]
    parts = torch.from_numpy(np.stack(drawn)).long() - 1 if drawn else None  # [B, H, W]
    seen = points.isfinite().all(-1)
    where = (points.nan_to_num(0).clamp(0, 1 - 1e-9) * torch.tensor([size[1], size[0]])).long()  # column and row
    places = where[..., 1] * size[1] + where[..., 0]
    of_points = torch.arange(points.shape[1]).expand(len(points), -1).masked_fill(~seen, -1)

    results: Counts = {}
    for name, maps in partitions(inputs.inference, unit, controls, parts).items():
        shape = maps.values.shape[2]
        columns: dict[str, list[Tensor]] = {"pixels": [], "points": [], "centres": []}
        for values in maps.values:  # [B, K, h, w]
            regions = torch.stack([enlarge(each, size).argmax(0) for each in values]).flatten(1)  # [B, H * W]
            columns["points"].append(count_regions(of_points, regions.gather(1, places), (points.shape[1], shape)))
            if parts is not None:
                columns["pixels"].append(count_regions(parts.flatten(1), regions, (len(PARTS), shape)))
            hard = F.one_hot(values.argmax(1), shape).movedim(-1, 1)
            columns["centres"].append(centroids(values.clamp(min=0) if maps.soft else hard))
        results[name] = {column: torch.stack(draws, 1) for column, draws in columns.items() if draws}
    return results


def summarise_parts(counts: Counts, inputs: Inputs, images: MeasuredImages) -> dict[str, Any]:
    """Return the entry `parts` of attribution.json: for each partition the metrics with 95 % bootstrap intervals over images."""
    assert inputs.parts is not None
    known = inputs.parts.key_points(images.paths)
    visible = np.isfinite(known.points).all(-1)  # [N, G]
    rows: dict[str, dict[str, Any]] = {}
    for name, columns in counts.items():
        errors = [regression_errors(each, *known) for each in columns["centres"].numpy().swapaxes(0, 1)]
        tables = {column: table.numpy() for column, table in columns.items() if column != "centres"}
        rows[name] = part_metrics(tables, np.stack(errors, 1))
    names = [name for name, seen in zip(inputs.parts.names, visible.any(0), strict=True) if seen]
    sizes = {"images": len(images), "key_points": int(visible.sum()), "regions": number_of_heads(inputs.model)}
    return {**sizes, "names": names, "rows": rows}


def part_metrics(counts: Mapping[str, np.ndarray], errors: np.ndarray) -> dict[str, dict[str, Any]]:
    """Compute the metrics of a partition with 95 % bootstrap intervals over images, the mean over draws.

    Args:
        counts: `points`, and `pixels` where every pixel has a part, `[N, D, G, K]`.
        errors: of the key points, `[N, D]`, nan for an image without them.
    """
    found = np.isfinite(errors).all(1)
    columns = {**counts, "sum": np.where(found[:, None], errors, 0), "found": found[:, None]}

    def partition(rows: np.ndarray) -> Partition:  # [R, what all columns hold of an image]
        starts = np.cumsum([0, *(column[0].size for column in columns.values())])
        parts = zip(columns.items(), starts[:-1], starts[1:], strict=True)
        split = {name: rows[:, start:end].reshape(-1, *column.shape[1:]) for (name, column), start, end in parts}
        with np.errstate(invalid="ignore"):
            mean = split["sum"] / split["found"]
        return Partition(split.get("pixels", np.full((len(rows), 1, 1, 1), np.nan)), split["points"], mean)

    flat = np.concatenate([column.reshape(len(errors), -1) for column in columns.values()], 1).astype(np.float64)
    exact, drawn = partition(flat.sum(0)[None]), partition(resampled_means(flat) * len(flat))
    results = {}
    for metric in METRICS.values():
        if metric.scope == "parts":
            value, values = (metric.compute(each).mean(-1) for each in (exact, drawn))  # [R]
            if np.isfinite(value).all():
                low, high = np.nanquantile(values, [0.025, 0.975])
                numbers = {"mean": float(value[0]), "low": float(low), "high": float(high)}
                results[metric.name] = numbers | {"images": int(found.sum()) if metric.name == "point_error" else len(errors)}
    return results
