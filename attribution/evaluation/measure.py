"""The maps of all methods and the model, measured unit by unit; each part is kept as soon as it is done.

Processes share the units. Rank 0 alone reads and writes what is kept: any number of processes can resume a measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.evaluation.cache import ResultCache
from attribution.evaluation.harness import Harness
from attribution.evaluation.inputs import MeasuredImages
from attribution.methods.registry import Method
from attribution.metrics.metric import Columns, ModelBatch, Unit, pad_with_nan
from attribution.metrics.registry import METRICS, compute_columns
from datasets.masks import PairPicture, load_masks
from util.progress import Progress
from util.ranks import SINGLE_PROCESS, Ranks

Part = tuple[str, Callable[[], Any]]  # name, and how it is computed


def measure_maps(harness: Harness, methods: Sequence[Method], images: MeasuredImages, cache: ResultCache, ranks: Ranks) -> None:
    """Measure every method on every unit, but for the parts that are in the cache."""

    def parts(number: int, missing: Sequence[str]) -> Iterator[Part]:
        unit = images.load(number)
        for method in methods:
            if method.name in missing:
                yield method.name, partial(harness.measure, unit, method)

    work = {method.name: harness.work(method, images.sizes[0], sum(images.units)) for method in methods}
    _fill_cache(harness, cache, work, images.units, parts, "maps", ranks)


def collect(cache: ResultCache, method: Method, units: Sequence[int]) -> dict[str, Any]:
    """Return what was measured of a method: `values` and `curves`, arrays `[N, ...]`, and `maps`, one `[h, w]` per image."""
    parts = [cache.read(method.name, number) for number in range(len(units))]
    values, curves = (concatenate([part[kind] for part in parts], units) for kind in ("values", "curves"))
    # The maps are the same every time, and so is their cost but for what else the machine did.
    values["ms"] = np.full(sum(units), np.median(values["ms"]))
    return {"values": values, "curves": curves, "maps": [x for part in parts for x in part["maps"]]}


def measure_pairs(
    harness: Harness, methods: Sequence[Method], pairs: Sequence[PairPicture], batches: Sequence[Sequence[int]],
    load: Callable[[Sequence[PairPicture]], Tensor], cache: ResultCache, ranks: Ranks,
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Measure maps of both classes of images with two objects by the masks of both; `batches` are places of images of one shape.

    Returns:
        for each method a column per metric, the mean over A and B of an image, in the order of the batches; for rank 0.
    """
    names = {f"pairs-{method.name}": method for method in methods if method.explains_pairs}
    sizes = [len(batch) for batch in batches]

    def parts(number: int, missing: Sequence[str]) -> Iterator[Part]:
        chosen = [pairs[place] for place in batches[number]]
        images = load(chosen)
        masks = torch.stack([load_masks(pair, (images.shape[2], images.shape[3])) for pair in chosen]).to(images.device)
        classes = torch.tensor([pair.classes for pair in chosen], device=images.device)  # [B, 2]
        unit = Unit(number, slice(sum(sizes[:number]), sum(sizes[: number + 1])), images, classes, masks)
        for name, method in names.items():
            if name in missing:
                yield name, partial(_pair_columns, harness, method, unit, masks)

    _fill_cache(harness, cache, dict.fromkeys(names, 1.0), sizes, parts, "pairs", ranks)
    return {
        method.name: concatenate([cache.read(name, number) for number in range(len(batches))], sizes)
        for name, method in (names.items() if ranks.main else ())
    }


def _pair_columns(harness: Harness, method: Method, unit: Unit, masks: Tensor) -> Columns:
    """Compute the metrics of a method's maps of pairs: the classes of the unit and `masks` have an axis for A and B."""
    count = harness.count(method, unit, unit.classes.shape[1])
    if not count:
        return {}
    rows = slice(unit.rows.start, unit.rows.start + count)
    first = Unit(unit.number, rows, unit.images[:count], unit.classes[:count], masks[:count])
    known = "masks" in method.needs
    maps = masks[:count].float() if known else harness.maps_of_classes(method, first.images, first.classes)
    columns = compute_columns(harness.map_batch(first, method, maps), harness.families, "pairs")
    return {name: pad_with_nan(column.cpu(), len(unit)) for name, column in columns.items()}


def measure_model(
    harness: Harness, methods: Sequence[Method], labelled: Callable[[int | None], Iterable[tuple[Tensor, Tensor]]],
    images: MeasuredImages, ranks: Ranks = SINGLE_PROCESS,
) -> dict[str, Columns]:  # fmt: skip
    """Compute the metrics of the model in the harness's families, and `randomisation/<method>`: columns, a number per image.

    `labelled` yields this process's part of the first images, normalised, with their true classes.
    """
    groups: dict[str, list[Columns]] = {}
    metrics = [m for m in METRICS.values() if m.scope == "model" and m.family in harness.families and m.applies(harness.model)]
    with Progress(len(metrics), "the model") as progress, _reporting(harness, progress):
        for metric in metrics:
            progress.step(0, metric.name)
            count = getattr(harness.budget, metric.images) if metric.images else None
            if metric.labelled:
                batches: Iterable[ModelBatch] = (harness.model_batch(*batch) for batch in labelled(count))
            else:
                batches = _batches(harness, methods, count, images, ranks)
            computed = (
                {name: {key: column.cpu() for key, column in columns.items()} for name, columns in metric.compute(batch).items()}
                for batch in batches
            )
            for results in ranks.gather_in_order(computed):
                for name, columns in results.items():
                    groups.setdefault(name, []).append(columns)
            progress.step()
    return {name: {key: torch.cat([part[key] for part in parts]) for key in parts[0]} for name, parts in groups.items()}


def _batches(
    harness: Harness, methods: Sequence[Method], count: int | None, images: MeasuredImages, ranks: Ranks
) -> Iterator[ModelBatch]:
    """Yield this process's part of the first `count` images; None for all."""
    starts = [sum(images.units[:number]) for number in range(len(images.units))]
    numbers = [number for number, start in enumerate(starts) if count is None or start < count]
    for number in numbers[ranks.rank :: ranks.size]:
        unit = images.load(number)
        first = unit.first(count)
        yield harness.model_batch(unit.images[:first], unit.classes[:first], methods)


def concatenate(parts: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the columns of all units, `[N, ...]`; nan in units that lack one."""
    columns = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        shape = next(part[name].shape[1:] for part in parts if name in part)
        rows = [part.get(name, torch.full((size, *shape), torch.nan)) for part, size in zip(parts, sizes, strict=True)]
        columns[name] = torch.cat([row.double() for row in rows]).numpy()
    return columns


def _fill_cache(
    harness: Harness, cache: ResultCache, work: Mapping[str, float], sizes: Sequence[int],
    parts: Callable[[int, Sequence[str]], Iterator[Part]], title: str, ranks: Ranks,
) -> None:  # fmt: skip
    """Make the parts of each unit that are not in the cache, by `parts(number of the unit, missing names)`.

    `work` has the names of all parts, and how long each takes for an image in comparison.
    """
    missing: dict[int, list[str]] = {}
    for number in range(len(sizes)) if ranks.main else ():
        if lacking := [name for name in work if cache.load(name, number) is None]:
            missing[number] = lacking
    missing = ranks.broadcast(missing)
    images = sum(sizes[number] * len(names) for number, names in missing.items())
    total = sum(sizes[number] * work[name] for number, names in missing.items() for name in names)

    def made(progress: Progress) -> Iterator[tuple[int, str, Any]]:
        for number in list(missing)[ranks.rank :: ranks.size]:
            for name, make in parts(number, missing[number]):
                progress.step(0, name)
                yield number, name, make()

    with Progress(images, title, total) as progress, _reporting(harness, progress):
        for number, name, part in ranks.gather_in_order(made(progress)):
            if ranks.main:
                cache.save(part, name, number)
            progress.step(sizes[number], work=sizes[number] * work[name])


@contextmanager
def _reporting(harness: Harness, progress: Progress) -> Iterator[None]:
    """Let each forward pass show that the measurement goes on: a part of it may take minutes."""
    models = (harness.model, harness.inference)
    handles = [model.register_forward_hook(lambda *_: progress.step(0)) for model in models]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
