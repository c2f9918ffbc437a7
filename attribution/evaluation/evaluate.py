"""The whole evaluation, from inputs to the content of attribution.json and the maps that were measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.evaluation.cache import ResultCache, cache_key
from attribution.evaluation.dummies import FIXED_PLACE, dummies
from attribution.evaluation.harness import Harness, slot_columns
from attribution.evaluation.inputs import Inputs, MeasuredImages
from attribution.evaluation.measure import collect, measure_maps, measure_model, measure_pairs
from attribution.evaluation.parts import Counts, measure_parts, summarise_parts
from attribution.evaluation.protocol import choose_methods, score_split
from attribution.evaluation.shortcuts import measure_shortcuts
from attribution.evaluation.summary import attribution_json
from attribution.methods.registry import METHODS, Method
from attribution.metrics.registry import METRICS
from datasets import EvalSampler, decode_image, image_size
from util.ranks import Ranks

Pairs = tuple[dict[str, dict[str, np.ndarray]], list[str]]  # columns of each method, and the files in their order


@dataclass
class AttributionResults:
    """Results of an evaluation of attribution maps."""

    content: dict[str, Any]  # of attribution.json
    images: MeasuredImages  # in the order of the numbers
    measured: dict[str, dict[str, Any]]  # of each method, from `measure.collect`


def evaluate_maps(inputs: Inputs, ranks: Ranks) -> AttributionResults | None:
    """Measure the maps of a model; of several processes rank 0 returns the results, the others None.

    Raises:
        ValueError: a method does not apply to the model, or the processes have different files.
        Stopped: the run was asked to stop; what is done is kept.
    """
    start, args, budget, split = time.monotonic(), inputs.args, inputs.budget, inputs.split
    truth = {"masks": inputs.masks, "removal_effects": inputs.planes}
    known = [name for name, source in truth.items() if source is not None]
    methods, ours = choose_methods(inputs.model, args.methods, args.ours, budget, known)
    methods = [*methods, *dummies(inputs.model, METHODS[ours], budget.options.get(ours, {}))]
    settings = _settings(inputs)
    cache = _open_cache(inputs, settings, ranks)
    sizes = len(split), len(split.classes)

    def score() -> dict[str, Tensor]:
        return score_split(inputs.score, inputs.loader(split), inputs.normalisation, *sizes, inputs.device, ranks)

    scored = _cached(cache, "split", score, ranks)
    accuracy = float((scored["predicted"] == torch.tensor(split.labels)).double().mean())
    print(f"{args.test}: {len(split)} images of {len(split.classes)} classes, {100 * accuracy:.2f} % right; {budget.name}")
    images = MeasuredImages(inputs, scored["predicted"], ranks)
    siblings = scored["siblings"]
    harness = Harness(
        inputs.model, inputs.inference, inputs.score, siblings, budget, inputs.families, images.planes, args.batch_size, args.seed
    )

    measure_maps(harness, methods, images, cache, ranks)
    model = _measure_model(inputs, harness, methods, images, cache, ranks)
    pairs, pair_files = _measure_pairs(inputs, harness, methods, cache, ranks)
    parts = _measure_parts(inputs, images, cache, ranks)
    if not ranks.main:
        return None

    measured = {method.name: collect(cache, method, images.units) for method in methods}
    controls = {}
    if images.planes is not None:
        fixed = slot_columns(images.planes.fixed_place(), images.planes.slots, len(images))
        controls[FIXED_PLACE] = {name: column.numpy() for name, column in fixed.items()}
        settings["slots"] = list(images.planes.slots)
    first = images.load(0).images
    settings |= {
        "images": len(images), "split_images": len(split), "accuracy": accuracy, "grid": list(harness.grid(first)),
        "siblings": {name: split.classes[other] for name, other in zip(split.classes, siblings.tolist(), strict=True)},
        "minutes": (time.monotonic() - start) / 60, "pair_files": pair_files,
    }  # fmt: skip
    costs = {method.name: budget.passes(method, first) for method in methods}
    content = attribution_json(settings, methods, costs, measured, model, pairs, images.describe(), ours, controls)
    if parts:
        content["parts"] = summarise_parts(parts, inputs, images)
    if METRICS["shortcut"].family in inputs.families:
        content["shortcuts"] = measure_shortcuts(inputs, images, measured[ours]["maps"])
    return AttributionResults(content, images, measured)


def _settings(inputs: Inputs) -> dict[str, Any]:
    """Return what the numbers depend on, beside the weights and the files."""
    args = inputs.args
    return {
        "checkpoint": Path(args.resume).name, "decoder": inputs.model.decoder_name, "dataset": args.dataset_name,
        "split": args.test, "image_size": args.image_size, "square": args.square, "bit_depth": args.bit_depth,
        "classes": inputs.split.classes, "seed": args.seed, "batch_size": args.batch_size, "precision": inputs.precision,
        "device": inputs.device.type,
        "normalisation": inputs.normalisation, "metrics": sorted(inputs.families), "steps": inputs.budget.steps,
        "effort": asdict(inputs.budget),
    }  # fmt: skip


def _open_cache(inputs: Inputs, settings: dict[str, Any], ranks: Ranks) -> ResultCache:
    options = {**settings, "planes": inputs.planes and inputs.planes.records}
    keys = ranks.gather(cache_key(inputs.model, inputs.files(), options), slow=True)
    if different := [str(rank) for rank, key in enumerate(keys) if key != keys[0]]:
        raise ValueError(f"rank {', '.join(different)} finds another checkpoint or other images than rank 0: give all the same")
    cache = ResultCache(Path(inputs.args.output_dir), keys[0])
    if cache.others:
        print(f"{cache.folder.parent} holds results of other models, data, flags or code: they are not used, remove them at will")
    return cache


def _cached(cache: ResultCache, name: str, compute: Callable[[], dict[str, Any]], ranks: Ranks) -> dict[str, Any]:
    """Return a part from the cache; compute and keep it where it is missing."""
    part = ranks.broadcast(cache.load(name) if ranks.main else None)
    if part is None:
        part = compute()
        if ranks.main:
            cache.save(part, name)
    return part


def _measure_model(
    inputs: Inputs, harness: Harness, methods: Sequence[Method], images: MeasuredImages, cache: ResultCache, ranks: Ranks
) -> dict[str, dict[str, Tensor]]:
    if not any(metric.scope == "model" and metric.family in inputs.families for metric in METRICS.values()):
        return {}
    name = "model-" + cache_key(inputs.model, {}, {"methods": [method.name for method in methods]})
    return _cached(cache, name, lambda: measure_model(harness, methods, inputs.labelled, images, ranks), ranks)


def _measure_parts(inputs: Inputs, images: MeasuredImages, cache: ResultCache, ranks: Ranks) -> Counts:
    if inputs.parts is None or not METRICS["point_nmi"].applies(inputs.model):
        return {}
    known = [column.tobytes() for column in inputs.parts.key_points(images.paths)]
    name = "parts-" + cache_key(inputs.model, {}, {"points": known, "masks": inputs.masks is not None})
    return _cached(cache, name, lambda: measure_parts(inputs, images, ranks), ranks)


def _measure_pairs(inputs: Inputs, harness: Harness, methods: Sequence[Method], cache: ResultCache, ranks: Ranks) -> Pairs:
    if not (pairs := inputs.pairs):
        return {}, []
    files = {f"{index}.{part}": path for index, pair in enumerate(pairs) for part, path in enumerate((pair.path, *pair.masks))}
    cache = ResultCache(cache.folder, cache_key(inputs.model, files, {"classes": [pair.classes for pair in pairs]}))
    transform: Any = inputs.split.transform
    shapes = [transform.output_size(*image_size(pair.path)) for pair in pairs]
    batches = EvalSampler(len(shapes), inputs.args.batch_size, shapes=shapes).batches
    if METHODS["oracle"] not in methods:
        methods = [*methods, METHODS["oracle"]]
    values = measure_pairs(
        harness, methods, pairs, batches, lambda chosen: inputs.images([decode_image(pair.path) for pair in chosen]), cache, ranks
    )
    return values, [str(pairs[place].path) for batch in batches for place in batch]
