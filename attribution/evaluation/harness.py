"""From pictures to maps to numbers, by one rule for all methods.

Every method explains the class that the model predicts, on the same pictures. Every map is pooled to the grid of the model's
features (by the mean over cells) and enlarged by one kernel; what a method scores at its own resolution stands in columns of
its own, `*_native`. Methods that need no gradient run on a copy of the model that is made for inference.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attribution.evaluation.cached_model import CachedModel
from attribution.evaluation.protocol import Budget
from attribution.methods.registry import Method, Passes
from attribution.metrics.faithfulness import CleanScores, PixelPerturbation, Score, area, faithfulness, ranks, score_clean
from attribution.metrics.localisation import average_precision, energy, energy_gain, pointing
from attribution.metrics.robustness import gini, max_sensitivity
from attribution.planes.metrics import PlanesMetrics
from attribution.resize import pool_to
from models import ICN, for_inference

# What is measured of maps: a group is asked for as a whole, by its name or by that of one of its columns.
GROUPS: dict[str, tuple[str, ...]] = {
    "faithfulness": ("srg", "insertion", "insertion_start", "deletion", "rd"),
    "native": ("srg_native", "rd_native"),
    "masks": ("pointing", "energy", "energy_gain", "ap"),
    "gini": ("gini",),
    "sensitivity": ("max_sensitivity",),
    "planes": ("contrast_pointing", "contrast_energy", "contrast_ap", "sd", "pc", "dc", "ts"),
    "pairs": ("own_hit", "other_hit", "own_energy", "other_energy"),
}
MODEL_GROUPS = ("reliance", "locality", "head_diversity", "randomisation")


def chosen_groups(names: Iterable[str] | None) -> frozenset[str]:
    """The groups that hold the metrics `names`; None for all.

    Raises:
        ValueError: there is no such metric.
    """
    everything = (*GROUPS, *MODEL_GROUPS)
    if names is None:
        return frozenset(everything)
    groups = set()
    for name in names:
        home = [group for group in everything if name == group or name in GROUPS.get(group, ())]
        if not home:
            columns = [column for columns in GROUPS.values() for column in columns]
            raise ValueError(
                f"--metrics {name}: there is no such metric; choose from {', '.join(dict.fromkeys([*everything, *columns]))}"
            )
        groups.add(home[0])
    return frozenset(groups)


@dataclass
class Unit:
    """Pictures of one shape that are measured together.

    number: of the unit. rows: their places among all pictures that are measured.
    images: `[B, 3, H, W]`, normalised. classes: predicted, `[B]`.
    masks: of the objects, bool `[B, H, W]`, empty for a picture that has none; None where there are none at all.
    removal_effects: on each part the drop of the logit of `classes` without the part, `[B, H, W]`, or None.
    """

    number: int
    rows: slice
    images: Tensor
    classes: Tensor
    masks: Tensor | None = None
    removal_effects: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[3]

    def first(self, count: int | None) -> int:
        """How many of these pictures are among the first `count` of all."""
        return len(self) if count is None else min(len(self), max(0, count - self.rows.start))


class Harness:
    """Makes the maps of a model, and judges them.

    Args:
        model: in evaluation mode.
        score: probabilities `[B, C]` of normalised images: what perturbed pictures are shown to.
        siblings: the class that each is most confused with, `[C]`.
        budget: how much.
        groups: what; see `chosen_groups`.
        planes: what is known about the pictures, in the order of their places; None for other data.
        batch_size: pictures in one pass of `score`.
        seed: of random maps, ties and noise.
    """

    def __init__(
        self,
        model: ICN,
        score: Score,
        siblings: Tensor,
        budget: Budget,
        groups: frozenset[str],
        *,
        planes: PlanesMetrics | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.model, self.score, self.siblings, self.budget, self.groups = model, score, siblings, budget, groups
        self.planes, self.batch_size, self.seed = planes, batch_size, seed
        self.fast = for_inference(model)
        self.warm: set[str] = set()
        self.removals: tuple[int, PixelPerturbation, PixelPerturbation] | None = None  # of the latest unit

    def maps(
        self, method: Method, images: Tensor, classes: Tensor, given: Mapping[str, Tensor] | None = None, model: Any = None
    ) -> Tensor:
        """Maps `[B, h, w]` or `[B, H, W]` of one class an image, as the method makes them.

        Args:
            given: `masks` and `removal_effects`, for methods that need them; the siblings are known.
            model: another one than the harness's.
        """
        known = {"siblings": self.siblings.to(classes.device)[classes], **(given or {})}
        options: dict[str, Any] = {name: known[name] for name in method.needs} | self.budget.options.get(method.name, {})
        if method.needs_grid:
            options["grid"] = self.grid(images)
        if method.seeded:
            options["seed"] = self.seed
        if model is None:
            model = self.model if self.passes(method, images).backward else self.fast
        return method.call(model, images, classes, **options).detach()

    def passes(self, method: Method, images: Tensor) -> Passes:
        return self.budget.passes(method, (images.shape[2], images.shape[3]))

    def costly(self, method: Method, images: Tensor) -> bool:
        return self.budget.costly(method, (images.shape[2], images.shape[3]))

    def maps_of_classes(
        self, method: Method, images: Tensor, classes: Tensor, given: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Maps of several classes an image, `[B, Q]`: `[B, Q, h, w]`. Where only outputs are looked at, they are shared."""
        given = given or {}
        if not self.costly(method, images) or self.passes(method, images).backward:
            return torch.stack([self.maps(method, images, column, given) for column in classes.unbind(1)], 1)
        memory, found = CachedModel(self.fast), []
        for index, row in enumerate(classes):
            memory.clear()
            own = {name: tensor[index : index + 1] for name, tensor in given.items()}
            found.append(torch.cat([self.maps(method, images[index : index + 1], one[None], own, memory) for one in row]))
        return torch.stack(found)

    @torch.no_grad()
    def grid(self, images: Tensor) -> tuple[int, int]:
        """Height and width of the model's features."""
        features = self.fast(images[:1]).features
        return features.shape[2], features.shape[3]

    def measure(self, unit: Unit, method: Method) -> dict[str, Any]:
        """All numbers of a method's maps of a unit.

        Returns:
            `values`: one number a picture, `[B]`, nan where it is not measured; `curves` `[B, steps + 1]`; `maps` `[B, h, w]`,
            pooled; and on planes `planes` and `contrasts`, pooled maps of the first pictures, `[n, Q, h, w]` and `[n, K, h, w]`.
        """
        given = {name: x for name, x in (("masks", unit.masks), ("removal_effects", unit.removal_effects)) if x is not None}
        made, seconds = self._timed(method, unit, given)
        grid = self.grid(unit.images)
        maps = pooled(made, grid)
        native = None if made.shape == maps.shape or method.family == "control" else made
        values = {"ms": torch.full((len(unit),), 1000 * seconds)}
        found: dict[str, Any] = {"values": values, "curves": {}, "maps": maps.cpu()}
        if "faithfulness" in self.groups:
            self._faithfulness(unit, maps, native, values, found["curves"])
        if "masks" in self.groups and unit.masks is not None:
            metrics = {"pointing": pointing, "energy": energy, "energy_gain": energy_gain, "ap": average_precision}
            there = unit.masks.flatten(1).any(1)
            for kind, some in (("", maps), ("_native", native if "native" in self.groups else None)):
                if some is not None:
                    scores = {name + kind: metric(some, unit.masks) for name, metric in metrics.items()}
                    values |= {name: score.masked_fill(~there, torch.nan) for name, score in scores.items()}
        if "gini" in self.groups:
            values["gini"] = gini(maps)
        if "sensitivity" in self.groups and not method.knows_ground_truth:
            values["max_sensitivity"] = self._sensitivity(unit, method, grid)
        if self.planes is not None and "planes" in self.groups:
            found |= self._planes(unit, method, grid, values)
        if "masks" in method.needs and unit.masks is not None:  # what knows the answer says nothing where there is none
            there = unit.masks.flatten(1).any(1)
            for name in values:
                values[name] = values[name].masked_fill(~there.to(values[name].device), torch.nan)
        found["values"] = {name: score.float().cpu() for name, score in values.items()}
        found["curves"] = {name: curve.cpu() for name, curve in found["curves"].items()}
        return found

    def _timed(self, method: Method, unit: Unit, given: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """The maps, and the seconds that one took."""
        if method.name not in self.warm and not self.costly(method, unit.images):  # the first call of a kernel plans it
            self.maps(method, unit.images, unit.classes, given)
        self.warm.add(method.name)
        _wait(unit.images)
        start = time.perf_counter()
        maps = self.maps(method, unit.images, unit.classes, given)
        _wait(unit.images)
        return maps, (time.perf_counter() - start) / len(unit)

    def _faithfulness(
        self, unit: Unit, maps: Tensor, native: Tensor | None, values: dict[str, Tensor], curves: dict[str, Tensor]
    ) -> None:
        to_mean, to_blur = self._removals(unit)
        siblings = self.siblings.to(unit.classes.device)[unit.classes]
        found = faithfulness(to_mean, to_blur, maps, siblings, seed=self.seed)
        assert found.relative_drop is not None
        values |= {"srg": found.srg, "insertion": found.insertion, "insertion_start": found.start, "deletion": found.deletion}
        values["rd"] = found.relative_drop
        curves |= {
            "deletion": found.deletion_curve,
            "insertion": found.insertion_curve,
            "least_first": found.least_first_curve,
        }
        if native is not None and "native" in self.groups:
            places = ranks(to_mean.clean, native, seed=self.seed)
            values["srg_native"] = area(to_mean.curve(places, least_first=True)) - area(to_mean.curve(places))
            values["rd_native"] = to_mean.relative_drop(places, siblings)

    def _removals(self, unit: Unit) -> tuple[PixelPerturbation, PixelPerturbation]:
        if self.removals is None or self.removals[0] != unit.number:
            clean: CleanScores = score_clean(self.score, unit.images, classes=unit.classes, chunk=self.batch_size)
            kinds = (
                PixelPerturbation(self.score, clean, kind, steps=self.budget.steps, chunk=self.batch_size)
                for kind in ("mean", "blur")
            )
            self.removals = (unit.number, *kinds)  # type: ignore[assignment]
        assert self.removals is not None
        return self.removals[1:]

    def _sensitivity(self, unit: Unit, method: Method, grid: tuple[int, int]) -> Tensor:
        result, count = torch.full((len(unit),), torch.nan, device=unit.images.device), unit.first(self.budget.sensitivity_images)
        if count and not self.costly(method, unit.images):
            classes = unit.classes[:count]
            result[:count] = max_sensitivity(
                lambda images: pooled(self.maps(method, images, classes), grid),
                unit.images[:count],
                samples=self.budget.sensitivity_samples,
                seed=self.seed,
            )
        return result

    def _planes(self, unit: Unit, method: Method, grid: tuple[int, int], values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pooled maps of the classes that `PlanesMetrics` wants, and of contrasts where a method has its own."""
        assert self.planes is not None
        count = unit.first(self.budget.costly_images) if self.costly(method, unit.images) else len(unit)
        if not count:
            return {}
        rows = slice(unit.rows.start, unit.rows.start + count)
        if "removal_effects" in method.needs:
            maps, contrasts = self.planes.oracle(grid, rows)
            return {"planes": maps, "contrasts": contrasts}
        images, classes, slots = unit.images[:count], self.planes.classes[rows].to(unit.images.device), len(self.planes.slots)
        given = {"masks": unit.masks[:count]} if unit.masks is not None else {}
        maps = self.maps_of_classes(method, images, classes, given)
        own: Tensor | None = None
        if method.family == "control":  # it knows no class, and no difference of two: it is judged as it is
            own = maps[:, :1].expand(-1, slots, -1, -1)
        elif method.is_contrast:
            pairs = [(classes[:, 0], classes[:, slot]) for slot in range(1, slots + 1)]
            own = torch.stack([self.maps(method, images, one, {"siblings": other}) for one, other in pairs], 1)
        found = {"planes": pooled(maps, grid).cpu()}
        if own is not None:
            found["contrasts"] = pooled(own, grid).cpu()
        if maps.shape[-2:] != grid and method.family != "control" and "native" in self.groups:
            scores = self.planes.measure(maps, own, rows=rows)
            for name in ("contrast_pointing", "contrast_energy", "contrast_ap"):
                mean = torch.full((len(unit),), torch.nan)
                mean[:count] = scores[name].mean(1)
                values[f"{name}_native"] = mean
        return found


def pooled(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps `[..., H, W]` at the grid of the model."""
    if maps.shape[-2:] == grid:
        return maps
    return pool_to(maps.flatten(0, -3), grid).unflatten(0, maps.shape[:-2])


def _wait(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
