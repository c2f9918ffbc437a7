"""From images to maps to numbers, by one rule for all methods.

Every method explains the class that the model predicts, on the same images. Every map is pooled to the grid of the model's
features (the mean over cells) and enlarged by one kernel; the scores of a map at its own resolution are in columns of their own,
`*_native`. Methods that need no gradient run on a copy of the model for inference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from attribution.evaluation.cached_model import CachedModel
from attribution.evaluation.planes import planes_columns
from attribution.evaluation.protocol import Budget
from attribution.methods.registry import Method, Passes
from attribution.metrics.batch import Columns, MapBatch, ModelBatch, Unit, pooled
from attribution.metrics.columns import compute_columns
from attribution.metrics.faithfulness import PixelPerturbation, Score, score_clean
from attribution.planes.metrics import PlanesMetrics
from models import ICN


class Harness:
    """Makes the maps of a model, and computes their metrics.

    Args:
        model: in evaluation mode.
        inference: `models.for_inference` of it.
        score: probabilities `[B, C]` of normalised images, for perturbed ones.
        siblings: the class that each is most confused with, `[C]`.
        budget: how much is measured.
        families: of metrics; see `metrics.columns.chosen_families`.
        planes: the ground truth of the images, in the order of their places; None for other data.
        batch_size: images in one pass of `score`.
        seed: of random maps, ties and noise.
    """

    def __init__(
        self,
        model: ICN,
        inference: ICN,
        score: Score,
        siblings: Tensor,
        budget: Budget,
        families: frozenset[str],
        *,
        planes: PlanesMetrics | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.model, self.inference, self.score, self.siblings = model, inference, score, siblings
        self.budget, self.families, self.planes, self.batch_size, self.seed = budget, families, planes, batch_size, seed
        self.warm: set[str] = set()
        self.perturbations: tuple[int, dict[str, PixelPerturbation]] | None = None  # of the latest unit

    def maps(
        self,
        method: Method,
        images: Tensor,
        classes: Tensor,
        ground_truth: Mapping[str, Tensor] | None = None,
        model: Any = None,
        siblings: Tensor | None = None,
    ) -> Tensor:
        """Return maps `[B, h, w]` or `[B, H, W]` of one class an image, as the method makes them.

        Args:
            ground_truth: `masks` and `removal_effects`, for methods that need them.
            model: another one than the harness's.
            siblings: `[B]`; None for the class that each of `classes` is most confused with.
        """
        siblings = self.siblings.to(classes.device)[classes] if siblings is None else siblings
        known = {"siblings": siblings, **(ground_truth or {})}
        options: dict[str, Any] = {name: known[name] for name in method.needs} | self.budget.options.get(method.name, {})
        if method.needs_grid:
            options["grid"] = self.grid(images)
        if method.seeded:
            options["seed"] = self.seed
        if model is None:
            model = self.model if self.passes(method, images).backward else self.inference
        return method.call(model, images, classes, **options).detach()

    def passes(self, method: Method, images: Tensor) -> Passes:
        return self.budget.passes(method, (images.shape[2], images.shape[3]))

    def costly(self, method: Method, images: Tensor) -> bool:
        return self.budget.costly(method, (images.shape[2], images.shape[3]))

    def maps_of_classes(
        self, method: Method, images: Tensor, classes: Tensor, ground_truth: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return maps of several classes `[B, Q]` an image: `[B, Q, h, w]`. A costly method's forward passes are shared."""
        if not self.costly(method, images) or self.passes(method, images).backward:
            return torch.stack([self.maps(method, images, column, ground_truth) for column in classes.unbind(1)], 1)
        cached, maps = CachedModel(self.inference), []
        for index, row in enumerate(classes):
            cached.clear()
            image = slice(index, index + 1)
            truth = {name: tensor[image] for name, tensor in (ground_truth or {}).items()}
            maps.append(torch.cat([self.maps(method, images[image], index[None], truth, cached) for index in row]))
        return torch.stack(maps)

    @torch.no_grad()
    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return height and width of the model's features."""
        features = self.inference(images[:1]).features
        return features.shape[2], features.shape[3]

    def measure(self, unit: Unit, method: Method) -> dict[str, Any]:
        """Compute all metrics of a method's maps of a unit.

        Returns:
            `values`: one number per image, `[B]`, nan where it is not measured; `curves` `[B, steps + 1]`; `maps` `[B, h, w]`,
            pooled.
        """
        made, seconds = self._timed(method, unit)
        batch = self.map_batch(unit, method, made)
        values = {"ms": torch.full((len(unit),), 1000 * seconds)} | compute_columns(batch, self.families)
        if "masks" in method.needs and unit.masks is not None:  # an oracle without a mask knows nothing
            present = unit.masks.flatten(1).any(1)
            values = {name: column.masked_fill(~present.to(column.device), torch.nan) for name, column in values.items()}
        return {
            "values": {name: (x if x.dtype == torch.float64 else x.float()).cpu() for name, x in values.items()},
            "curves": {name: curve.cpu() for name, curve in batch.curves.items()},
            "maps": batch.maps.cpu(),
        }

    def map_batch(self, unit: Unit, method: Method, made: Tensor) -> MapBatch:
        """Return maps `made` by a method with what the metrics need beside them."""
        grid = self.grid(unit.images)
        maps = pooled(made, grid)
        return MapBatch(
            unit=unit,
            method=method,
            maps=maps,
            made=None if made.shape == maps.shape or method.family == "control" else made,
            siblings=self.siblings.to(unit.classes.device)[unit.classes],
            budget=self.budget.describe(),
            seed=self.seed,
            costly=self.costly(method, unit.images),
            perturbation=partial(self._perturbation, unit),
            explain=lambda images, classes: pooled(self.maps(method, images, classes), grid),
            planes=None if self.planes is None else self._planes_scorer(self.planes, unit, method, grid),
        )

    def model_batch(self, images: Tensor, classes: Tensor, methods: Sequence[Method] = ()) -> ModelBatch:
        """Return images with the model, and those of the methods that can explain them with other weights."""
        grid = cache(partial(self.grid, images))

        def explain(method: Method, model: ICN | None) -> Tensor:
            return pooled(self.maps(method, images, classes, model=model), grid())

        methods = [method for method in methods if not self.costly(method, images) and not method.knows_ground_truth]
        explainers = {method.name: partial(explain, method) for method in methods}
        return ModelBatch(self.model, self.inference, images, classes, self.budget.describe(), self.seed, explainers)

    def _planes_scorer(
        self, planes: PlanesMetrics, unit: Unit, method: Method, grid: tuple[int, int]
    ) -> Callable[[MapBatch], Columns]:
        """Return the scores on planes of a batch's maps: of as many images as the method's cost allows."""
        count = unit.first(self.budget.costly_images) if self.costly(method, unit.images) else len(unit)
        rows = slice(unit.rows.start, unit.rows.start + count)

        @cache
        def class_maps() -> tuple[Tensor, Tensor | None]:
            if "removal_effects" in method.needs:
                return planes.oracle(grid, rows)
            return self._class_maps(planes, unit, method, rows)

        def score(batch: MapBatch) -> Columns:
            if not count:
                return {}
            columns = planes_columns(planes, *class_maps(), rows, len(unit), None if batch.native else grid)
            if "removal_effects" in method.needs:  # swaps ask for another ground truth than removals
                del columns["sd_swap"]
            return columns

        return score

    def _class_maps(self, planes: PlanesMetrics, unit: Unit, method: Method, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Return maps `[n, Q, h, w]` of the classes that planes ask for, and own contrasts `[n, slots, h, w]`, or None."""
        count = rows.stop - rows.start
        images = unit.images[:count]
        classes, slots = planes.classes[rows].to(images.device), len(planes.slots)
        maps = self.maps_of_classes(method, images, classes, {"masks": unit.masks[:count]} if unit.masks is not None else {})
        if method.family == "control":  # it depends on no class, and so on no difference of two
            return maps, maps[:, :1].expand(-1, slots, -1, -1)
        if not method.is_contrast:
            return maps, None
        siblings = classes[:, 1 : slots + 1].unbind(1)
        return maps, torch.stack([self.maps(method, images, classes[:, 0], siblings=column) for column in siblings], 1)

    def _timed(self, method: Method, unit: Unit) -> tuple[Tensor, float]:
        """Return the maps, and the seconds that one took."""
        make = partial(self.maps, method, unit.images, unit.classes, unit.ground_truth)
        if method.name not in self.warm and not self.costly(method, unit.images):  # the first call of a kernel plans it
            make()
        self.warm.add(method.name)
        _wait(unit.images)
        start = time.perf_counter()
        maps = make()
        _wait(unit.images)
        return maps, (time.perf_counter() - start) / len(unit)

    def _perturbation(self, unit: Unit, kind: str) -> PixelPerturbation:
        """Return the perturbation of the unit's images, which all methods share."""
        if self.perturbations is None or self.perturbations[0] != unit.number:
            clean = score_clean(self.score, unit.images, classes=unit.classes, chunk=self.batch_size)
            kinds = ("mean", "blur")
            make = partial(PixelPerturbation, self.score, clean, steps=self.budget.steps, chunk=self.batch_size)
            self.perturbations = unit.number, {kind: make(kind) for kind in kinds}
        return self.perturbations[1][kind]


def _wait(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
