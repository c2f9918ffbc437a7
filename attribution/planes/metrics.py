"""Metrics of attribution maps with exact ground truth, on factorial planes, for any classifier and any method.

`PlanesMetrics` renders and scores all counterfactuals of a set of images once. `classes` are the classes of which it needs maps,
and `measure` turns the maps of a method into numbers by lookup. The scene of an image is known, so that the pixels in which its
class differs from a sibling are known, and a removed part is rendered, not painted grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attribution.metrics.localisation import average_precision, energy, pointing
from attribution.planes import ground_truth
from attribution.planes.parts import part_importance, prediction_scores, rank_agreement, single_deletion, target_sensitivity
from attribution.resize import pool_to
from datasets.planes.dataset import PlanesSplit, check_picture
from models.losses import class_probabilities
from util.progress import Progress
from util.ranks import SINGLE_PROCESS, Ranks

FOLDS = 5
RELIANCE = 0.1  # a model relies on the roundel if the probability of the class drops by this without it


class PlanesMetrics:
    """Ground truth about N images of a planes split, and the metrics of maps against it.

    Attributes:
        split, records: the data set, and the records in the order of the paths.
        slots: the K slots in which classes differ: the columns of the contrast scores.
        classes: int64 `[N, Q]`, the classes of which maps are needed: the image's own; K siblings that differ in one slot
            each; then two that share disjoint halves of the slots with the image, for TS (not where K is 1).
        table: the logits of all removals.
        correct: bool `[N]`, whether the prediction is right.
        relies: bool `[N]`, whether the image has the roundel of its class and the model relies on it.
        size: side S of the masks in pixels.

    Args:
        split, paths: from `open_planes`, and images of it.
        size: side of the masks in pixels; None for the images' own.
        prepare, logits, batch_size, progress, ranks: as for `score_renders`; each process has all results in the end.
        loss: that the model was trained with, for probabilities.

    Raises:
        ValueError: there are no images, or one is not the split's, or not what its record renders to.
    """

    def __init__(
        self,
        split: PlanesSplit,
        paths: Sequence[Path],
        prepare: ground_truth.Prepare,
        logits: ground_truth.Logits,
        *,
        size: int | None = None,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        loss: str = "ce",
    ) -> None:
        self.split, self.slots = split, split.slots
        self.records = [split.record(path) for path in paths]
        if not self.records:
            raise ValueError(f"{split.root}: no image of {split.split} was chosen; measure at least one")
        comparisons = [ground_truth.compare(split, record) for record in self.records]
        others = [[*comparison.siblings, *comparison.sharing] for comparison in comparisons]
        own = [record["variants"] for record in self.records]
        rows = ((first, *rest) for first, rest in zip(own, others, strict=True))
        self.classes = torch.tensor([[split.label(variants) for variants in row] for row in rows])
        self._groups = torch.tensor([comparison.groups for comparison in comparisons])  # [N, 2, K]
        self._draw_masks(comparisons, size, ranks)
        scored = ground_truth.score_counterfactuals(self.records, others, prepare, logits, batch_size, progress, ranks, loss)
        self.table, self._swapped = scored  # the latter [N, Q - 1, C]
        self.correct = self.table.logits[:, 0].argmax(-1) == self.classes[:, 0]
        self.relies = self._relies()

    def _draw_masks(self, comparisons: Sequence[ground_truth.Comparison], size: int | None, ranks: Ranks) -> None:
        def packed() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:  # bits: an eighth of the memory
            for record, comparison in list(zip(self.records, comparisons, strict=True))[ranks.rank :: ranks.size]:
                check_picture(self.split, record)
                masks = [ground_truth.difference_mask(record, variants, size) for variants in comparison.siblings]
                parts = {name: np.packbits(mask, axis=-1) for name, mask in ground_truth.part_masks(record, size).items()}
                yield np.packbits(np.array(masks), axis=-1), parts

        drawn = []
        with Progress(len(self.records), "masks of parts") as progress:
            for masks in ranks.gather_in_order(packed()):
                drawn.append(masks)
                progress.step()
        self._differences = np.stack([masks for masks, _ in drawn])  # [N, K, S, S / 8]
        self._parts = [parts for _, parts in drawn]
        self.size = self._differences.shape[2]

    def _relies(self) -> Tensor:
        own = self.classes[:, 0]
        if "roundel" not in self.table.parts:
            return torch.zeros(len(own), dtype=torch.bool)
        roundel = torch.tensor([part == "roundel" for part in self.table.parts]).expand(len(own), -1)
        image = torch.arange(len(own))
        logits = self.table.logits[:, 0], self.table.logits_without(roundel)
        before, after = (class_probabilities(scores, self.table.loss)[image, own] for scores in logits)
        of_class = torch.tensor([bool(record.get("roundel_is_of_class")) for record in self.records])
        return of_class & (before - after >= RELIANCE)

    def difference_masks(self, rows: slice = slice(None)) -> Tensor:
        """Return where the class differs from its sibling in each slot: bool `[n, K, S, S]`."""
        return torch.from_numpy(np.unpackbits(self._differences[rows], axis=-1, count=self.size).astype(bool))

    def part_masks(self, rows: slice = slice(None)) -> Tensor:
        """Return amodal masks of `table.parts`, empty for an absent part: bool `[n, P, S, S]`."""
        absent = np.zeros((self.size, -(-self.size // 8)), np.uint8)
        packed = np.array([[masks.get(part, absent) for part in self.table.parts] for masks in self._parts[rows]])
        return torch.from_numpy(np.unpackbits(packed, axis=-1, count=self.size).astype(bool))

    def measure(self, maps: Tensor, contrasts: Tensor | None = None, rows: slice = slice(None)) -> dict[str, Tensor]:
        """Score the maps of one method.

        Args:
            maps: `[n, Q, h, w]`, of the classes `self.classes[rows]`, at any resolution.
            contrasts: `[n, K, h, w]`, maps of the class against its sibling in each slot, from a method that makes them
                (Finer-CAM, an oracle); None for max(a_c - a_d, 0).
            rows: the images.

        Returns:
            A number per image `[n]`, or per slot `[n, K]` for `contrast_*`; nan where it is undefined. More is better but for
            `part_deletion`. `sd_swap` is SD where slots are swapped for the sibling's, and the importance is the mass where
            the two classes differ. `pc`, `dc` and `part_*` are nan for a wrong prediction, which the map of the right class
            does not explain. `shortcut_*` is nan where the model does not rely on the roundel (`relies`); `shortcut_top` is 1
            where no other part has more importance.
        """
        maps = maps.detach().float().cpu()
        table, own, slots = self.table.select(rows), self.classes[rows, 0], len(self.slots)
        differences, parts = self.difference_masks(rows), self.part_masks(rows)
        if contrasts is None:
            contrasts = (maps[:, :1] - maps[:, 1 : 1 + slots]).clamp(min=0)
        importance = part_importance(maps[:, 0], parts)  # [n, P]

        scores = contrast_scores(contrasts.detach().float().cpu(), differences)
        scores["sd"] = single_deletion(importance, table, own)
        image = torch.arange(len(own))
        drops = table.logits[image, 0, own][:, None] - self._swapped[rows][image, :slots, own]  # [n, K]
        scores["sd_swap"] = rank_agreement(part_importance(maps[:, 0], differences), drops, torch.ones_like(drops).bool())
        for name, values in prediction_scores(importance, table, own).items():
            scores[name] = values.masked_fill(~self.correct[rows], torch.nan)
        if slots > 1:
            scores["ts"] = self._target_sensitivity(maps[:, -2:], differences, rows)
        if "roundel" in table.parts:
            scores |= self._shortcut_scores(maps[:, 0], parts, importance, rows)
        return scores

    def _shortcut_scores(self, maps: Tensor, parts: Tensor, importance: Tensor, rows: slice) -> dict[str, Tensor]:
        """Score maps `[n, h, w]` on the mask of the roundel, with masks and importances of all parts."""
        roundel = self.table.parts.index("roundel")
        own = importance[:, roundel]
        is_top = (own >= importance.masked_fill(~self.table.present[rows], -torch.inf).amax(-1)) & (own > 0)
        mask = parts[:, roundel]
        scores = {"pointing": pointing(maps, mask), "energy": energy(maps, mask), "top": is_top.float()}
        return {f"shortcut_{name}": values.masked_fill(~self.relies[rows], torch.nan) for name, values in scores.items()}

    def _target_sensitivity(self, maps: Tensor, differences: Tensor, rows: slice) -> Tensor:
        groups = self._group_masks(differences, rows)
        mass = torch.stack([part_importance(maps[:, i], groups) for i in (0, 1)], 1)  # [n, map, group]
        # Images of the two classes: each is the scene with everything but its own group swapped.
        logit = self._swapped[rows][:, -2:].gather(-1, self.classes[rows, None, -2:].expand(-1, 2, -1))  # [n, image, class]
        holds = (logit[:, 0, 0] > logit[:, 1, 0]) & (logit[:, 1, 1] > logit[:, 0, 1])
        return target_sensitivity(mass, holds)

    def _group_masks(self, differences: Tensor, rows: slice) -> Tensor:
        """Return where the slots of each group differ from their swaps: bool `[n, 2, S, S]`."""
        return (self._groups[rows][..., None, None] & differences[:, None]).any(2)

    def removal_effects(self, rows: slice, classes: Tensor) -> Tensor:
        """Return maps `[n, S, S]` of classes `[n]` with the ground truth of removals: each part has the mass by which the
        logit drops without the part."""
        masks = self.part_masks(rows).float()  # [n, P, S, S]
        density = self.table.select(rows).drops(classes) / masks.sum((-2, -1)).clamp(min=1)
        return torch.einsum("np,nphw->nhw", density, masks)

    def oracle(self, grid: tuple[int, int], rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return maps and contrasts for `measure` that are made of the ground truth: the best scores that a grid allows.

        Contrasts are the difference masks, pooled. The map of the own class has on each part a mass equal to the drop of the
        logit; those of the TS classes are the difference masks of their groups. `sd_swap` needs another map: it has no oracle.
        """
        differences = self.difference_masks(rows)
        contrasts = pool_to(differences.float().flatten(0, 1), grid).unflatten(0, differences.shape[:2])
        own = self.classes[rows, 0]
        maps = torch.zeros(len(own), self.classes.shape[1], *grid)
        maps[:, 0] = pool_to(self.removal_effects(rows, own), grid)
        if len(self.slots) > 1:
            groups = self._group_masks(differences, rows).float()
            maps[:, -2:] = pool_to(groups.flatten(0, 1), grid).unflatten(0, groups.shape[:2])
        return maps, contrasts

    def fixed_place(self) -> dict[str, Tensor]:
        """Return contrast scores of the best map that is the same for all images: the mean difference mask of each slot.

        Its peak is the pixel that lies in most masks; the mean is taken over the images of the other folds. Each `[N, K]`.
        """
        differences = self.difference_masks()
        fold = torch.arange(len(differences)) % FOLDS
        scores: dict[str, Tensor] = {}
        for number in range(min(FOLDS, len(differences)) if len(differences) > 1 else 0):
            own = fold == number
            mean = differences[~own].float().mean(0).expand(int(own.sum()), -1, -1, -1)  # [n, K, S, S]
            for name, values in contrast_scores(mean, differences[own]).items():
                scores.setdefault(name, torch.full(differences.shape[:2], torch.nan))[own] = values
        return scores


def contrast_scores(contrasts: Tensor, differences: Tensor) -> dict[str, Tensor]:
    """Compute pointing, energy and average precision of contrasts `[n, K, h, w]` on difference masks bool `[n, K, S, S]`."""
    shape = differences.shape[:2]
    maps, masks = contrasts.flatten(0, 1), differences.flatten(0, 1)
    metrics = {"pointing": pointing, "energy": energy, "ap": average_precision}
    return {f"contrast_{name}": metric(maps, masks).unflatten(0, shape) for name, metric in metrics.items()}
