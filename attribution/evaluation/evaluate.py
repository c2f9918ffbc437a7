"""The whole evaluation, from inputs to the content of attribution.json and the maps that were measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.evaluation.cache import ResultCache, fingerprint
from attribution.evaluation.harness import Harness
from attribution.evaluation.images import Pictures
from attribution.evaluation.inputs import Inputs
from attribution.evaluation.measure import collect, measure_maps, measure_pairs
from attribution.evaluation.measure_model import measure_model
from attribution.evaluation.planes import build_planes_metrics, slot_columns
from attribution.evaluation.selection import choose_methods, most_confused, score_split
from attribution.evaluation.summary import summary
from attribution.methods.registry import METHODS, Method
from attribution.metrics.registry import METRICS
from datasets import EvalSampler, decode_image, image_size
from datasets.masks import PairPicture
from util.ranks import Ranks

Pairs = tuple[dict[str, dict[str, np.ndarray]], list[str]]  # columns of each method, and the files in their order


@dataclass
class Evaluation:
    """The outcome.

    content: of attribution.json. images: in the order of the numbers.
    values: of each method, its columns `[N]`. maps: of each method, one `[h, w]` per image.
    """

    content: dict[str, Any]
    images: Pictures
    values: dict[str, dict[str, np.ndarray]]
    maps: dict[str, Sequence[Tensor]]


def evaluate(inputs: Inputs, ranks: Ranks) -> Evaluation | None:
    """Measure the maps of a model; of several processes rank 0 returns the outcome, the others None.

    Raises:
        ValueError: a method does not apply to the model, or the processes have different files.
        Stopped: the run was asked to stop; what is done is kept.
    """
    start, options, split = time.monotonic(), inputs.options, inputs.split
    methods, ours = choose_methods(inputs.model, options.methods, options.ours, options.budget)
    truth = {"siblings": True, "masks": inputs.masks, "removal_effects": inputs.planes}
    methods = [method for method in methods if all(truth[need] is not None for need in method.needs)]
    settings = _settings(inputs)
    cache = _open_cache(inputs, settings, ranks)
    scored = _score(inputs, cache, ranks)
    accuracy = float((scored["predicted"] == torch.tensor(split.labels)).double().mean())
    counts = f"{len(split)} images of {len(split.classes)} classes"
    print(f"{options.test}: {counts}, {100 * accuracy:.2f} % right; {options.budget.name}")
    images = _images(inputs, scored["predicted"], ranks)
    siblings = most_confused(scored["confusion"])
    harness = Harness(
        inputs.model, inputs.inference, inputs.score, siblings, options.budget, inputs.families,
        planes=images.planes, batch_size=options.batch_size, seed=options.seed,
    )  # fmt: skip

    measure_maps(harness, methods, images.units, images.load, cache, ranks)
    model = _measure_model(inputs, harness, methods, images, cache, ranks)
    pairs, pair_files = _measure_pairs(inputs, harness, methods, cache, ranks)
    if not ranks.main:
        return None

    measured = {method.name: collect(cache, method, images.units) for method in methods}
    controls = {}
    if images.planes is not None:
        fixed = slot_columns(images.planes.fixed_place(), images.planes.slots, len(images))
        controls["fixed_place"] = {name: column.numpy() for name, column in fixed.items()}
        settings["slots"] = list(images.planes.slots)
    first = images.load(0).images
    settings |= {
        "images": len(images), "split_images": len(split), "accuracy": accuracy, "grid": list(harness.grid(first)),
        "siblings": {name: split.classes[other] for name, other in zip(split.classes, siblings.tolist(), strict=True)},
        "minutes": (time.monotonic() - start) / 60, "pair_files": pair_files,
    }  # fmt: skip
    costs = {method.name: harness.passes(method, first) for method in methods}
    content = summary(settings, methods, costs, measured, model, pairs, images.describe(), ours, controls)
    values, maps = ({name: parts[key] for name, parts in measured.items()} for key in ("values", "maps"))
    return Evaluation(content, images, values, maps)


def _settings(inputs: Inputs) -> dict[str, Any]:
    """Return what the numbers depend on, beside the weights and the files."""
    options = inputs.options
    return {
        "checkpoint": Path(options.resume).name, "decoder": inputs.model.decoder_name, "dataset": options.dataset_name,
        "split": options.test, "image_size": options.image_size, "square": options.square, "classes": inputs.split.classes,
        "seed": options.seed, "batch_size": options.batch_size, "precision": inputs.precision, "device": inputs.device.type,
        "metrics": sorted(inputs.families), "steps": options.budget.steps, "effort": options.budget.describe(),
    }  # fmt: skip


def _open_cache(inputs: Inputs, settings: dict[str, Any], ranks: Ranks) -> ResultCache:
    keys = ranks.gather(fingerprint(inputs.model, inputs.files(), inputs.split.root, settings))
    if different := [str(rank) for rank, key in enumerate(keys) if key != keys[0]]:
        raise ValueError(f"rank {', '.join(different)} finds another checkpoint or other pictures than rank 0: give all the same")
    cache = ResultCache(inputs.options.output_dir, keys[0])
    if cache.others:
        print(f"{cache.folder.parent} holds results of other models, data or flags, too: they are not used, remove them at will")
    return cache


def _score(inputs: Inputs, cache: ResultCache, ranks: Ranks) -> dict[str, Tensor]:
    """Return predictions and confusion of the whole split."""
    scored = ranks.broadcast(cache.load("split") if ranks.main else None)
    if scored is None:
        batches, split = inputs.loader(inputs.split), inputs.split
        scored = score_split(inputs.score, batches, inputs.normalisation, len(split), len(split.classes), inputs.device, ranks)
        if ranks.main:
            cache.save(scored, "split")
    return scored


def _images(inputs: Inputs, predicted: Tensor, ranks: Ranks) -> Pictures:
    """Return the images that are measured; on planes with their counterfactuals."""
    options = inputs.options
    places = inputs.places[: options.budget.images]
    images = Pictures(inputs.split, places, predicted, options.batch_size, inputs.normalisation, inputs.device, inputs.masks)
    if inputs.planes is not None:
        images.planes = build_planes_metrics(
            inputs.planes, inputs.inference, images.paths, lambda picture: inputs.images([picture])[0],
            size=images.sizes[0][0], batch_size=options.batch_size, ranks=ranks,
        )  # fmt: skip
    return images


def _measure_model(
    inputs: Inputs, harness: Harness, methods: Sequence[Method], images: Pictures, cache: ResultCache, ranks: Ranks
) -> dict[str, dict[str, Tensor]]:
    if not any(metric.scope == "model" and metric.family in inputs.families for metric in METRICS.values()):
        return {}
    name = "model-" + fingerprint(inputs.model, [], cache.folder, {"methods": [method.name for method in methods]})
    model = ranks.broadcast(cache.load(name) if ranks.main else None)
    if model is None:
        model = measure_model(harness, methods, inputs.labelled, images.units, images.load, ranks)
        if ranks.main:
            cache.save(model, name)
    return model


def _measure_pairs(inputs: Inputs, harness: Harness, methods: Sequence[Method], cache: ResultCache, ranks: Ranks) -> Pairs:
    if not inputs.pairs:
        return {}, []
    files = [path for pair in inputs.pairs for path in (pair.path, *pair.masks)]
    cache = ResultCache(cache.folder, fingerprint(inputs.model, files, Path(inputs.options.pairs or "").parent, {}))
    transform: Any = inputs.split.transform
    shapes = [transform.output_size(*image_size(pair.path)) for pair in inputs.pairs]
    batches = EvalSampler(len(shapes), inputs.options.batch_size, shapes=shapes).batches
    if METHODS["oracle"] not in methods:
        methods = [*methods, METHODS["oracle"]]

    def load(pairs: Sequence[PairPicture]) -> Tensor:
        return inputs.images([decode_image(pair.path) for pair in pairs])

    values = measure_pairs(harness, methods, inputs.pairs, batches, load, cache, ranks)
    return values, [str(inputs.pairs[place].path) for batch in batches for place in batch]
