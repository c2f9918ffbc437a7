"""The maps of all methods, measured unit by unit; each part is kept as soon as it is done.

Units are shared out among the processes. Rank 0 alone reads and writes what is kept, so that a measurement is resumed with any
number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.evaluation.cache import ResultCache
from attribution.evaluation.harness import Harness
from attribution.methods.registry import Method
from attribution.metrics.batch import Columns, Unit, leading
from attribution.metrics.columns import compute_columns
from datasets.masks import PairPicture, load_masks
from util.progress import Progress
from util.ranks import SINGLE_PROCESS, Ranks

Loader = Callable[[int], Unit]


def measure_maps(
    harness: Harness,
    methods: Sequence[Method],
    units: Sequence[int],
    load: Loader,
    cache: ResultCache,
    ranks: Ranks = SINGLE_PROCESS,
) -> None:
    """Measure every method on every unit, but for the parts that are in the cache.

    Args:
        units: how many images each has.
        load: a unit by its number.
        ranks: who share the units.
    """

    def parts(number: int, missing: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        unit = load(number)
        for method in methods:
            if method.name in missing:
                yield method.name, harness.measure(unit, method)

    _fill_cache(cache, [method.name for method in methods], units, parts, "maps", ranks)


def collect(cache: ResultCache, method: Method, units: Sequence[int]) -> dict[str, Any]:
    """Return what was measured of a method: `values` and `curves`, arrays `[N, ...]`, and `maps`, one `[h, w]` per image."""
    parts = [cache.load(method.name, number) for number in range(len(units))]
    values = concatenate([part["values"] for part in parts], units)
    # The maps are the same every time, and so is their cost but for what else the machine did.
    values["ms"] = np.full(sum(units), np.median(values["ms"]))
    curves = concatenate([part["curves"] for part in parts], units)
    return {"values": values, "curves": curves, "maps": [heat for part in parts for heat in part["maps"]]}


def measure_pairs(
    harness: Harness,
    methods: Sequence[Method],
    pairs: Sequence[PairPicture],
    batches: Sequence[Sequence[int]],
    load: Callable[[Sequence[PairPicture]], Tensor],
    cache: ResultCache,
    ranks: Ranks = SINGLE_PROCESS,
) -> dict[str, dict[str, np.ndarray]]:
    """Measure maps of both classes of images with two objects by the masks of both.

    Args:
        batches: places of images that have one shape.
        load: normalised images `[B, 3, H, W]`.
        ranks: who share the batches.

    Returns:
        for each method a column per metric, the mean over A and B of an image, in the order of the batches; for rank 0.
    """
    methods = [method for method in methods if method.explains_pairs]
    sizes = [len(batch) for batch in batches]

    def parts(number: int, missing: Sequence[str]) -> Iterator[tuple[str, Columns]]:
        chosen = [pairs[place] for place in batches[number]]
        images = load(chosen)
        masks = torch.stack([load_masks(pair, (images.shape[2], images.shape[3])) for pair in chosen]).to(images.device)
        classes = torch.tensor([pair.classes for pair in chosen], device=images.device)  # [B, 2]
        unit = Unit(number, slice(sum(sizes[:number]), sum(sizes[: number + 1])), images, classes, masks)
        for method in methods:
            if (name := f"pairs-{method.name}") in missing:
                yield name, _pair_columns(harness, method, unit)

    _fill_cache(cache, [f"pairs-{method.name}" for method in methods], sizes, parts, "pairs", ranks)
    return {
        method.name: concatenate([cache.load(f"pairs-{method.name}", number) for number in range(len(batches))], sizes)
        for method in (methods if ranks.main else ())
    }


def _pair_columns(harness: Harness, method: Method, unit: Unit) -> Columns:
    """Compute the metrics of a method's maps of pairs: `unit.classes` and `unit.masks` have an axis for A and B."""
    count = unit.first(harness.budget.costly_images) if harness.costly(method, unit.images) else len(unit)
    if not count:
        return {}
    assert unit.masks is not None
    start = unit.rows.start
    first = Unit(unit.number, slice(start, start + count), unit.images[:count], unit.classes[:count], unit.masks[:count])
    masks = unit.masks[:count]
    maps = masks.float() if "masks" in method.needs else harness.maps_of_classes(method, first.images, first.classes)
    columns = compute_columns(harness.map_batch(first, method, maps), harness.families, "pairs")
    return {name: leading(column.cpu(), len(unit)) for name, column in columns.items()}


def concatenate(parts: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the columns of all units, `[N, ...]`; nan in units that lack one."""
    names = dict.fromkeys(name for part in parts for name in part)
    columns = {}
    for name in names:
        shape = next(part[name].shape[1:] for part in parts if name in part)
        rows = [part.get(name, torch.full((size, *shape), torch.nan)) for part, size in zip(parts, sizes, strict=True)]
        columns[name] = torch.cat([row.double() for row in rows]).numpy()
    return columns


def _fill_cache(
    cache: ResultCache,
    names: Sequence[str],
    sizes: Sequence[int],
    parts: Callable[[int, Sequence[str]], Iterator[tuple[str, Any]]],
    title: str,
    ranks: Ranks,
) -> None:
    """Make the parts `names` of each unit that are not in the cache.

    Args:
        sizes: of the units.
        parts: makes the parts of a unit, by its number, that are missing.
        title: of the progress line.
    """
    missing: dict[int, list[str]] = {}
    for number in range(len(sizes)) if ranks.main else ():
        if lacking := [name for name in names if not cache.has(name, number)]:
            missing[number] = lacking
    missing = ranks.broadcast(missing)

    def made() -> Iterator[tuple[int, str, Any]]:
        for number in list(missing)[ranks.rank :: ranks.size]:
            yield from ((number, name, part) for name, part in parts(number, missing[number]))

    with Progress(sum(sizes[number] * len(names) for number, names in missing.items()), title) as progress:
        for number, name, part in ranks.gather_in_order(made()):
            if ranks.main:
                cache.save(part, name, number)
            progress.step(sizes[number], name)
