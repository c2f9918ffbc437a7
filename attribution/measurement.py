"""The parts of a measurement, one after the other, each kept as soon as it is done: maps, model, pictures of two objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from util.progress import Progress

from . import model_metrics
from .harness import EVIDENCE_ORACLE, Harness, Unit, pooled
from .methods import Method
from .pairs import PairPicture, load_masks, pair_scores
from .part_metrics import best_threshold, deletion_check, part_importance, preservation_check
from .planes_metrics import PlanesMetrics
from .randomisation import agreement, cascade
from .results import Partial, concatenate

AT_ONCE = 256  # pictures of planes that are judged at once: their masks are large
Loader = Callable[[int], Unit]


def measure_maps(harness: Harness, methods: Sequence[Method], units: Sequence[int], load: Loader, partial: Partial) -> None:
    """Measure every method on every unit, but for what is there already.

    Args:
        units: how many pictures each has.
        load: a unit by its number.
    """
    todo = [(number, method) for number in range(len(units)) for method in methods if not partial.has(method.name, number)]
    unit: Unit | None = None
    with Progress(sum(units[number] for number, _ in todo), "maps") as progress:
        for number, method in todo:
            if unit is None or unit.number != number:
                unit = load(number)
            partial.save(harness.measure(unit, method), method.name, number)
            progress.step(len(unit), method.name)


def collect(partial: Partial, method: Method, units: Sequence[int], planes: PlanesMetrics | None) -> dict[str, Any]:
    """What is known of a method: `values` and `curves`, arrays `[N, ...]`, and `maps`, one tensor `[h, w]` a picture."""
    parts = [partial.load(method.name, number) for number in range(len(units))]
    values = concatenate([part["values"] for part in parts], units)
    # The maps are the same every time, and so is their cost but for what else the machine did.
    values["ms"] = np.full(sum(units), np.median(values["ms"]))
    curves = concatenate([part["curves"] for part in parts], units)
    of_classes = [part["planes"] for part in parts if "planes" in part]
    if planes is not None and of_classes:
        contrasts = [part["contrasts"] for part in parts if "contrasts" in part]
        found = planes_scores(planes, torch.cat(of_classes), torch.cat(contrasts) if contrasts else None)
        if method is EVIDENCE_ORACLE:  # swaps ask for another truth than removals
            found.pop("sd_swap")
        values |= slot_columns(found, planes.slots, sum(units))
    return {"values": values, "curves": curves, "maps": [one for part in parts for one in part["maps"]]}


def planes_scores(planes: PlanesMetrics, maps: Tensor, contrasts: Tensor | None) -> dict[str, Tensor]:
    """`PlanesMetrics.measure` of the first pictures, piece by piece; the best thresholds are those of all of them."""
    parts, importances = [], []
    for start in range(0, len(maps), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(maps)))
        parts.append(planes.measure(maps[rows], None if contrasts is None else contrasts[rows], rows))
        importances.append(part_importance(maps[rows, 0], planes.part_masks(rows)))
    scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    rows, importance = slice(0, len(maps)), torch.cat(importances)
    table, wrong = planes.table.rows(rows), ~planes.correct[rows]
    best = best_threshold(importance, table, planes.classes[rows, 0])
    scores["pc_threshold"] = preservation_check(importance, table)[:, best].masked_fill(wrong, torch.nan)
    scores["dc_threshold"] = deletion_check(importance, table)[:, best].masked_fill(wrong, torch.nan)
    return scores


def slot_columns(scores: dict[str, Tensor], slots: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """One number a picture, `[count]`: the mean over slots, and one column a slot, `<metric>/<slot>`; nan beyond the scores."""
    columns = {}
    for name, score in scores.items():
        wide = torch.full((count, *score.shape[1:]), torch.nan, dtype=torch.float64)
        wide[: len(score)] = score.double()
        if wide.dim() == 1:
            columns[name] = wide.numpy()
            continue
        columns[name] = wide.mean(1).numpy()
        columns |= {f"{name}/{slot}": wide[:, place].numpy() for place, slot in enumerate(slots)}
    return columns


def measure_model(
    harness: Harness, methods: Sequence[Method], labelled: Iterable[tuple[Tensor, Tensor]], units: Sequence[int], load: Loader
) -> dict[str, dict[str, Tensor]]:
    """What is measured of the model, by the groups that were asked for: one number a picture each.

    Args:
        labelled: normalised images and their labels, for the reliance.

    Returns:
        `reliance`, `locality` and `head_diversity`, and for each method that is not costly `randomisation/<method>`, the
        agreement with the trained model's map after each stage.
    """
    found: dict[str, list[dict[str, Tensor]]] = {}
    looks, effort = harness.model.decoder_kind != "none", harness.effort
    if "reliance" in harness.groups and looks:
        for images, labels in labelled:
            found.setdefault("reliance", []).append(model_metrics.reliance(harness.fast, images, labels, seed=harness.seed))
    if "head_diversity" in harness.groups and looks:
        for unit in _first(units, load, None):
            scores = model_metrics.diversity(harness.fast, unit.images, unit.classes)
            found.setdefault("head_diversity", []).append({"jsd": scores})
    if "locality" in harness.groups:
        for unit in _first(units, load, effort.locality_images):
            images = unit.images[: unit.first(effort.locality_images)]
            local = model_metrics.locality(harness.model, images, cells=effort.locality_cells, seed=harness.seed)
            found.setdefault("locality", []).append(local)
    if "randomisation" in harness.groups:
        for unit in _first(units, load, effort.randomised_images):
            for name, stages in _randomised(harness, methods, unit, unit.first(effort.randomised_images)).items():
                found.setdefault(f"randomisation/{name}", []).append(stages)
    return {name: {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]} for name, parts in found.items()}


def _first(units: Sequence[int], load: Loader, count: int | None) -> Iterator[Unit]:
    """The units that hold the first `count` pictures."""
    start = 0
    for number, size in enumerate(units):
        if count is None or start < count:
            yield load(number)
        start += size


def _randomised(harness: Harness, methods: Sequence[Method], unit: Unit, count: int) -> dict[str, dict[str, Tensor]]:
    images, classes = unit.images[:count], unit.classes[:count]
    known = ("masks", "answer")  # maps that know the answer know no model
    able = [one for one in methods if not harness.costly(one, images) and not any(need in known for need in one.needs)]
    grid = harness.grid(images)
    trained = {one.name: pooled(harness.maps(one, images, classes), grid) for one in able}
    found: dict[str, dict[str, Tensor]] = {one.name: {} for one in able}
    for stage, random in cascade(harness.model, harness.seed):
        for one in able:
            found[one.name][stage] = agreement(trained[one.name], pooled(harness.maps(one, images, classes, model=random), grid))
    return found


def measure_pairs(
    harness: Harness,
    methods: Sequence[Method],
    pairs: Sequence[PairPicture],
    batches: Sequence[Sequence[int]],
    load: Callable[[Sequence[PairPicture]], Tensor],
    partial: Partial,
) -> dict[str, dict[str, np.ndarray]]:
    """Pictures of two objects: the maps of both classes, judged by both masks.

    Args:
        batches: places of pictures that have one shape.
        load: pictures to normalised images `[B, 3, H, W]`.

    Returns:
        for each method the columns of `pair_scores`, the mean of A and B a picture, in the order of the batches.
    """
    methods = [method for method in methods if method is not EVIDENCE_ORACLE]
    sizes = [len(batch) for batch in batches]
    with Progress(len(methods) * sum(sizes), "pairs") as progress:
        for number, batch in enumerate(batches):
            todo = [method for method in methods if not partial.has(f"pairs-{method.name}", number)]
            if todo:
                some = [pairs[place] for place in batch]
                images = load(some)
                masks = torch.stack([load_masks(pair, (images.shape[2], images.shape[3])) for pair in some]).to(images.device)
                classes = torch.tensor([pair.classes for pair in some], device=images.device)
                unit = Unit(number, slice(sum(sizes[:number]), sum(sizes[: number + 1])), images, classes[:, 0])
                for method in todo:
                    partial.save(_pair_values(harness, method, unit, classes, masks), f"pairs-{method.name}", number)
            progress.step(len(batch) * len(methods))
    return {
        method.name: concatenate([partial.load(f"pairs-{method.name}", number) for number in range(len(batches))], sizes)
        for method in methods
    }


def _pair_values(harness: Harness, method: Method, unit: Unit, classes: Tensor, masks: Tensor) -> dict[str, Tensor]:
    count = unit.first(harness.effort.costly_images) if harness.costly(method, unit.images) else len(unit)
    if not count:
        return {}
    grid, images, masks = harness.grid(unit.images), unit.images[:count], masks[:count]
    maps = masks.float() if "masks" in method.needs else harness.maps_of_classes(method, images, classes[:count])
    kinds = {"": pooled(maps, grid)}
    if maps.shape[-2:] != grid and method.family != "control" and "native" in harness.groups:
        kinds["_native"] = maps
    values = {}
    for kind, some in kinds.items():
        for name, score in pair_scores(some, masks).items():
            if not (kind and name.endswith("area")):
                column = torch.full((len(unit),), torch.nan)
                column[:count] = score.mean(1).cpu()
                values[name + kind] = column
    return values
