"""The parts of a measurement, one after the other, each kept as soon as it is done: maps, model, pictures of two objects.

Of several processes each takes every so many-th unit. Rank 0 alone reads and writes what is kept, so that a measurement goes on
with any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.evaluation.cache import ResultCache, concatenate
from attribution.evaluation.harness import Harness, Unit, pooled
from attribution.methods.registry import Method
from attribution.metrics import model as model_metrics
from attribution.metrics.pairs import pair_scores
from attribution.metrics.randomisation import agreement, cascade
from attribution.planes.metrics import PlanesMetrics
from datasets.pairs import PairPicture, load_masks
from util.distributed import ALONE, Ranks
from util.progress import Progress

AT_ONCE = 256  # pictures of planes that are judged at once: their masks are large
Loader = Callable[[int], Unit]


def measure_maps(
    harness: Harness,
    methods: Sequence[Method],
    units: Sequence[int],
    load: Loader,
    partial: ResultCache,
    ranks: Ranks = ALONE,
) -> None:
    """Measure every method on every unit, but for what is there already.

    Args:
        units: how many pictures each has.
        load: a unit by its number.
        ranks: who share the units.
    """
    todo = _todo(partial, [method.name for method in methods], len(units), ranks)

    def measured() -> Iterator[tuple[str, int, dict[str, Any]]]:
        for number in list(todo)[ranks.rank :: ranks.size]:
            unit = load(number)
            for method in methods:
                if method.name in todo[number]:
                    yield method.name, number, harness.measure(unit, method)

    with Progress(sum(units[number] * len(names) for number, names in todo.items()), "maps") as progress:
        for name, number, part in ranks.gather_in_order(measured()):
            if ranks.main:
                partial.save(part, name, number)
            progress.step(units[number], name)


def _todo(partial: ResultCache, names: Sequence[str], count: int, ranks: Ranks) -> dict[int, list[str]]:
    """By the numbers of `count` units, the parts that are not there yet."""
    missing: dict[int, list[str]] = {}
    for number in range(count) if ranks.main else ():
        if lacking := [name for name in names if not partial.has(name, number)]:
            missing[number] = lacking
    return ranks.broadcast(missing)


def collect(partial: ResultCache, method: Method, units: Sequence[int], planes: PlanesMetrics | None) -> dict[str, Any]:
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
        if "removal_effects" in method.needs:  # swaps ask for another truth than removals
            found.pop("sd_swap")
        values |= slot_columns(found, planes.slots, sum(units))
    return {"values": values, "curves": curves, "maps": [one for part in parts for one in part["maps"]]}


def planes_scores(planes: PlanesMetrics, maps: Tensor, contrasts: Tensor | None) -> dict[str, Tensor]:
    """Return `PlanesMetrics.measure` of the first images, in pieces of `AT_ONCE`."""
    parts = []
    for start in range(0, len(maps), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(maps)))
        parts.append(planes.measure(maps[rows], None if contrasts is None else contrasts[rows], rows))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


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
    harness: Harness,
    methods: Sequence[Method],
    labelled: Iterable[tuple[Tensor, Tensor]],
    units: Sequence[int],
    load: Loader,
    ranks: Ranks = ALONE,
) -> dict[str, dict[str, Tensor]]:
    """What is measured of the model, by the groups that were asked for: one number a picture each.

    Args:
        labelled: normalised images and their labels, for the reliance; those of this process.
        ranks: who share the units.

    Returns:
        `reliance`, `locality` and `head_diversity`, and for each method that is not costly `randomisation/<method>`, the
        agreement with the trained model's map after each stage.
    """
    found: dict[str, list[dict[str, Tensor]]] = {}
    looks, budget = harness.model.num_decoder_layers > 0, harness.budget

    def merge(mine: Iterator[dict[str, dict[str, Tensor]]]) -> None:
        for parts in ranks.gather_in_order(mine):
            for name, part in parts.items():
                found.setdefault(name, []).append(part)

    def local(unit: Unit) -> dict[str, Tensor]:
        images = unit.images[: unit.first(budget.locality_images)]
        return model_metrics.locality(harness.model, images, cells=budget.locality_cells, seed=harness.seed)

    if "reliance" in harness.groups and looks:
        answers = (model_metrics.reliance(harness.fast, images, labels, seed=harness.seed) for images, labels in labelled)
        merge({"reliance": _on_cpu(answer)} for answer in answers)
    if "head_diversity" in harness.groups and looks:
        some = _first(units, load, None, ranks)
        scores = (model_metrics.diversity(harness.fast, unit.images, unit.classes) for unit in some)
        merge({"head_diversity": _on_cpu({"jsd": score})} for score in scores)
    if "locality" in harness.groups:
        merge({"locality": _on_cpu(local(unit))} for unit in _first(units, load, budget.locality_images, ranks))
    if "randomisation" in harness.groups:
        some = _first(units, load, budget.randomised_images, ranks)
        of_units = (_randomised(harness, methods, unit, unit.first(budget.randomised_images)) for unit in some)
        merge({f"randomisation/{name}": _on_cpu(stages) for name, stages in one.items()} for one in of_units)
    return {name: {key: torch.cat([part[key] for part in parts]) for key in parts[0]} for name, parts in found.items()}


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _first(units: Sequence[int], load: Loader, count: int | None, ranks: Ranks) -> Iterator[Unit]:
    """This process's part of the units that hold the first `count` pictures."""
    starts = [sum(units[:number]) for number in range(len(units))]
    numbers = [number for number, start in enumerate(starts) if count is None or start < count]
    for number in numbers[ranks.rank :: ranks.size]:
        yield load(number)


def _randomised(harness: Harness, methods: Sequence[Method], unit: Unit, count: int) -> dict[str, dict[str, Tensor]]:
    images, classes = unit.images[:count], unit.classes[:count]
    able = [one for one in methods if not harness.costly(one, images) and not one.knows_ground_truth]
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
    partial: ResultCache,
    ranks: Ranks = ALONE,
) -> dict[str, dict[str, np.ndarray]]:
    """Pictures of two objects: the maps of both classes, judged by both masks.

    Args:
        batches: places of pictures that have one shape.
        load: pictures to normalised images `[B, 3, H, W]`.
        ranks: who share the batches.

    Returns:
        for each method the columns of `pair_scores`, the mean of A and B a picture, in the order of the batches; for rank 0.
    """
    methods = [method for method in methods if method.explains_pairs]
    sizes = [len(batch) for batch in batches]
    todo = _todo(partial, [f"pairs-{method.name}" for method in methods], len(batches), ranks)

    def measured() -> Iterator[tuple[str, int, dict[str, Tensor]]]:
        for number in list(todo)[ranks.rank :: ranks.size]:
            some = [pairs[place] for place in batches[number]]
            images = load(some)
            masks = torch.stack([load_masks(pair, (images.shape[2], images.shape[3])) for pair in some]).to(images.device)
            classes = torch.tensor([pair.classes for pair in some], device=images.device)
            unit = Unit(number, slice(sum(sizes[:number]), sum(sizes[: number + 1])), images, classes[:, 0])
            for method in methods:
                if (name := f"pairs-{method.name}") in todo[number]:
                    yield name, number, _pair_values(harness, method, unit, classes, masks)

    with Progress(sum(sizes[number] * len(names) for number, names in todo.items()), "pairs") as progress:
        for name, number, part in ranks.gather_in_order(measured()):
            if ranks.main:
                partial.save(part, name, number)
            progress.step(sizes[number])
    return {
        method.name: concatenate([partial.load(f"pairs-{method.name}", number) for number in range(len(batches))], sizes)
        for method in (methods if ranks.main else ())
    }


def _pair_values(harness: Harness, method: Method, unit: Unit, classes: Tensor, masks: Tensor) -> dict[str, Tensor]:
    count = unit.first(harness.budget.costly_images) if harness.costly(method, unit.images) else len(unit)
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
