"""From images to maps to numbers, by one rule for all methods.

Every method explains the predicted class. Every map is pooled to the grid of the model's features (the mean over cells) and
enlarged by one kernel; the scores of a map at its own resolution are in columns of their own, `*_native`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from attribution.evaluation.cache import CachedModel
from attribution.evaluation.protocol import Budget
from attribution.methods.registry import Method
from attribution.metrics.faithfulness import PixelPerturbation, Score, score_clean
from attribution.metrics.metric import Columns, MapBatch, ModelBatch, Unit, pad_with_nan, pooled
from attribution.metrics.registry import compute_columns
from attribution.planes.metrics import PlanesMetrics
from models import ICN

Grid = tuple[int, int]
Truth = Mapping[str, Tensor]  # `masks` and `removal_effects`, for methods that need them


@dataclass
class Harness:
    """The maps of a model and their metrics."""

    model: ICN  # in evaluation mode
    inference: ICN  # `models.for_inference` of it
    score: Score  # for perturbed images
    siblings: Tensor  # [C], the class that each is most confused with
    budget: Budget
    families: frozenset[str]  # of metrics
    planes: PlanesMetrics | None = None  # the ground truth of the images, in their order; None for other data
    batch_size: int = 32  # images in one pass of `score`
    seed: int = 0  # of random maps, ties and noise
    warm: set[str] = field(default_factory=set)  # methods that have run before
    perturbations: tuple[int, dict[str, PixelPerturbation]] | None = None  # of the latest unit

    def maps(
        self, method: Method, images: Tensor, classes: Tensor, truth: Truth | None = None, model: Any = None,
        siblings: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return maps `[B, h, w]` or `[B, H, W]` of one class an image, as the method makes them.

        `model`: another one than the harness's. `siblings` `[B]`: None for those that `classes` are most confused with.
        """
        siblings = self.siblings.to(classes.device)[classes] if siblings is None else siblings
        known = {"siblings": siblings, **(truth or {})}
        options: dict[str, Any] = {name: known[name] for name in method.needs} | self.budget.options.get(method.name, {})
        if method.needs_grid:
            options["grid"] = self.grid(images)
        if method.seeded:
            options["seed"] = self.seed
        if model is None:
            model = self.model if self.budget.passes(method, images).backward else self.inference
        return method.call(model, images, classes, **options).detach()

    def work(self, method: Method, size: tuple[int, int], images: int) -> float:
        """Estimate how long a method takes for one of `images` of `size` `(H, W)`, in forward passes; a backward pass is two."""
        image = torch.empty(1, 3, *size, device="meta")
        passes, costly = self.budget.passes(method, image), self.budget.costly(method, image)
        maps = 1.0
        if self.planes is not None:
            classes = self._planes_maps(self.planes, method)
            limit = self.budget.class_images(method, image, classes)
            if costly and not passes.backward:  # all classes share them: see `maps_of_classes`
                classes = 1
            maps += classes * (1 if limit is None else min(1, limit / images))
        if "sensitivity" in self.families and not costly:
            maps += self.budget.sensitivity_samples * min(1, self.budget.sensitivity_images / images)
        curves = 3 * self.budget.steps if "faithfulness" in self.families else 0
        return 1 + curves + maps * (passes.forward + 2 * passes.backward)

    def count(self, method: Method, unit: Unit, maps: int) -> int:
        """Return how many images of a unit the method makes the maps of many classes for, `maps` of each."""
        return unit.first(self.budget.class_images(method, unit.images, maps))

    def maps_of_classes(self, method: Method, images: Tensor, classes: Tensor, truth: Truth | None = None) -> Tensor:
        """Return maps of several classes `[B, Q]` an image: `[B, Q, h, w]`. A costly method's forward passes are shared."""
        if not self.budget.costly(method, images) or self.budget.passes(method, images).backward:
            return torch.stack([self.maps(method, images, column, truth) for column in classes.unbind(1)], 1)
        cached, maps = CachedModel(self.inference), []
        for index, row in enumerate(classes):
            cached.known.clear()
            image = slice(index, index + 1)
            own = {name: tensor[image] for name, tensor in (truth or {}).items()}
            maps.append(torch.cat([self.maps(method, images[image], index[None], own, cached) for index in row]))
        return torch.stack(maps)

    @torch.no_grad()
    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return height and width of the model's features."""
        features = self.inference(images[:1]).features
        return features.shape[2], features.shape[3]

    def measure(self, unit: Unit, method: Method) -> dict[str, Any]:
        """Compute all metrics of a method's maps: `values` `[B]`, `curves` `[B, steps + 1]`, and the pooled `maps`."""
        made, seconds = self._timed(method, unit)
        batch = self.map_batch(unit, method, made)
        values = {"ms": torch.full((len(unit),), 1000 * seconds)} | compute_columns(batch, self.families)
        if "masks" in method.needs and unit.masks is not None:  # an oracle has no map without a mask
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
        native = None if made.shape == maps.shape or method.family == "control" else made
        siblings = self.siblings.to(unit.classes.device)[unit.classes]
        return MapBatch(
            unit, method, maps, native, siblings, self.budget, self.seed, self.budget.costly(method, unit.images),
            perturbation=partial(self._perturbation, unit),
            explain=lambda images, classes: pooled(self.maps(method, images, classes), grid),
            planes=None if self.planes is None else self._planes_scorer(self.planes, unit, method, grid),
        )  # fmt: skip

    def model_batch(self, images: Tensor, classes: Tensor, methods: Sequence[Method] = ()) -> ModelBatch:
        """Return images with the model, and those of the methods that can explain them with other weights."""
        grid = cache(partial(self.grid, images))

        def explain(method: Method, model: ICN | None) -> Tensor:
            return pooled(self.maps(method, images, classes, model=model), grid())

        methods = [method for method in methods if not self.budget.costly(method, images) and not method.knows_ground_truth]
        explainers = {method.name: partial(explain, method) for method in methods}
        return ModelBatch(self.model, self.inference, images, classes, self.budget, self.seed, explainers)

    def _planes_scorer(self, planes: PlanesMetrics, unit: Unit, method: Method, grid: Grid) -> Callable[[MapBatch], Columns]:
        """Return the scores on planes of a batch's maps: of as many images as the method's cost allows."""
        rows = slice(unit.rows.start, unit.rows.start + self.count(method, unit, self._planes_maps(planes, method)))

        @cache
        def class_maps() -> tuple[Tensor, Tensor | None]:
            known = "removal_effects" in method.needs
            return planes.oracle(grid, rows) if known else self._class_maps(planes, unit, method, rows)

        def score(batch: MapBatch) -> Columns:
            if rows.start == rows.stop:
                return {}
            maps, contrasts = class_maps()
            if not batch.native:
                maps, contrasts = pooled(maps, grid), None if contrasts is None else pooled(contrasts, grid)
            # A mean over slots is in float64, but of maps at their own resolution in float32, as in every result so far.
            dtype = torch.float32 if batch.native else torch.float64
            columns = slot_columns(planes.measure(maps, contrasts, rows), planes.slots, len(unit), dtype)
            if "removal_effects" in method.needs:  # swaps ask for another ground truth than removals
                del columns["sd_swap"]
            return columns

        return score

    @staticmethod
    def _planes_maps(planes: PlanesMetrics, method: Method) -> int:
        """Return how many maps of an image `_class_maps` makes."""
        return planes.classes.shape[1] + (len(planes.slots) if method.is_contrast else 0)

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
        known = {"masks": unit.masks, "removal_effects": unit.removal_effects}
        truth = {name: tensor for name, tensor in known.items() if tensor is not None}
        make = partial(self.maps, method, unit.images, unit.classes, truth)
        if method.name not in self.warm and not self.budget.costly(method, unit.images):  # the first call of a kernel plans it
            make()
        self.warm.add(method.name)
        wait = partial(torch.cuda.synchronize, unit.images.device) if unit.images.is_cuda else lambda: None
        wait()
        start = time.perf_counter()
        maps = make()
        wait()
        return maps, (time.perf_counter() - start) / len(unit)

    def _perturbation(self, unit: Unit, kind: str) -> PixelPerturbation:
        """Return the perturbation of the unit's images, which all methods share."""
        if self.perturbations is None or self.perturbations[0] != unit.number:
            clean = score_clean(self.score, unit.images, classes=unit.classes, chunk=self.batch_size)
            make = partial(PixelPerturbation, self.score, clean, steps=self.budget.steps, chunk=self.batch_size)
            self.perturbations = unit.number, {kind: make(kind) for kind in ("mean", "blur")}
        return self.perturbations[1][kind]


def slot_columns(scores: Columns, slots: Sequence[str], count: int, dtype: torch.dtype = torch.float64) -> Columns:
    """Return columns `[count]` of scores of the first images, `[n]` or `[n, slots]`: the mean, and each slot `<name>/<slot>`."""
    columns = {}
    for name, score in scores.items():
        wide = pad_with_nan(score, count, dtype)
        columns[name] = wide.mean(1) if wide.dim() == 2 else wide
        if wide.dim() == 2:
            columns |= {f"{name}/{slot}": wide[:, place] for place, slot in enumerate(slots)}
    return columns
