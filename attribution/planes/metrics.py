"""Everything that is exact on factorial planes, for any classifier and any maps.

`PlanesMetrics` renders and scores all counterfactuals of some pictures once. It says of which classes it wants maps
(`classes`), and turns the maps of a method into numbers (`measure`) by lookup. The scene of a picture is known, so the
evidence that separates its class from a sibling is known to the pixel, and a removed part is rendered, not painted grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attribution.metrics.localisation import average_precision, energy, pointing
from attribution.planes.counterfactuals import Logits, Prepare, removal_table, removals, score_renders
from attribution.planes.evidence import evidence, part_masks, sibling
from attribution.planes.parts import (
    best_threshold,
    curve_area,
    deletion_check,
    deletion_curve,
    insertion_curve,
    part_importance,
    preservation_check,
    rank_agreement,
    single_deletion,
    target_sensitivity,
    top_k_checks,
)
from attribution.resize import pool_to
from datasets.planes.annotations import PlanesSplit, Record, check_picture
from datasets.planes.presets import Variants
from util.distributed import ALONE, Ranks

FOLDS = 5
RELIES = 0.1  # a model relies on the roundel if the probability of the class falls by this without it


class PlanesMetrics:
    """The known truth about some pictures of a planes split.

    Attributes:
        split, records: the data set, and the N records in the order of the paths.
        slots: the K slots in which classes differ: the columns of the contrast scores.
        classes: int64 `[N, Q]`, the classes of which maps are wanted: the picture's own; K siblings that differ in one slot
            each; then two that share disjoint halves of the slots with the picture, for TS (not where K is 1).
        table: the logits of all removals. correct: bool `[N]`. relies: bool `[N]`, the picture wears the roundel of its
            class, and the model needs it.

    Args:
        split: from `open_planes`.
        paths: pictures of it.
        prepare: a picture uint8 `[3, S, S]` -> the network's input `[3, H, W]`: the eval transform and the normalisation.
        logits: `[B, 3, H, W]` -> `[B, C]`, before any softmax.
        size: side of the masks in pixels; None for the pictures' own.
        batch_size: pictures a forward pass.
        progress: called with (done, total) renders.
        ranks: who share the work; all of them know all of it in the end.

    Raises:
        ValueError: there are no pictures, or one is not the split's, or not what its record renders to.
    """

    def __init__(
        self,
        split: PlanesSplit,
        paths: Sequence[Path],
        prepare: Prepare,
        logits: Logits,
        *,
        size: int | None = None,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.split, self.slots = split, split.slots
        self.records = [split.record(path) for path in paths]
        if not self.records:
            raise ValueError(f"{split.root}: no picture of {split.split} was chosen; measure at least one")
        self._siblings = [[sibling(split.preset, record, slot) for slot in self.slots] for record in self.records]
        groups = [_groups(record, self.slots) for record in self.records]
        self._groups = torch.tensor([[[slot in group for slot in self.slots] for group in pair] for pair in groups])  # [N, 2, K]
        sharing = [
            [_sharing(record, row, group) for group in pair] if len(self.slots) > 1 else []
            for record, row, pair in zip(self.records, self._siblings, groups, strict=True)
        ]
        wanted = [
            [record["variants"], *row, *pair] for record, row, pair in zip(self.records, self._siblings, sharing, strict=True)
        ]
        self.classes = torch.tensor([[split.label(variants) for variants in row] for row in wanted])  # [N, Q]

        self._draw_masks(size, ranks)
        removed = removals(self.records)
        swapped = [(record, variants) for record, row in zip(self.records, wanted, strict=True) for variants in row[1:]]
        total, done = len(removed) + len(swapped), 0

        def step(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total)

        scores = score_renders([*removed, *swapped], prepare, logits, batch_size, step, ranks)
        self.table = removal_table(self.records, scores[: len(removed)])
        self._swapped = scores[len(removed) :].view(len(self.records), -1, scores.shape[1])  # [N, Q - 1, C]
        own = self.classes[:, 0]
        self.correct = self.table.logits[:, 0].argmax(-1) == own
        self.relies = self._relies()

    def _draw_masks(self, size: int | None, ranks: Ranks) -> None:
        def packed() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:  # bits: an eighth of the memory
            for place in range(ranks.rank, len(self.records), ranks.size):
                record = self.records[place]
                check_picture(self.split, record)
                masks = [evidence(record, variants, size) for variants in self._siblings[place]]
                parts = {name: np.packbits(mask, axis=-1) for name, mask in part_masks(record, size).items()}
                yield np.packbits(np.array(masks), axis=-1), parts

        found = list(ranks.gather_in_order(packed()))
        self._evidence = np.stack([masks for masks, _ in found])  # [N, K, S, S / 8]
        self._parts = [parts for _, parts in found]
        self.size = self._evidence.shape[2]

    def _relies(self) -> Tensor:
        own = self.classes[:, 0]
        if "roundel" not in self.table.parts:
            return torch.zeros(len(own), dtype=torch.bool)
        without = torch.tensor([part == "roundel" for part in self.table.parts]).expand(len(own), -1)
        picture = torch.arange(len(own))
        before, after = (scores.softmax(-1)[picture, own] for scores in (self.table.logits[:, 0], self.table.at(without)))
        of_class = torch.tensor([bool(record.get("roundel_is_of_class")) for record in self.records])
        return of_class & (before - after >= RELIES)

    def evidence(self, rows: slice = slice(None)) -> Tensor:
        """E(class, sibling) of each slot: bool `[n, K, S, S]`."""
        return torch.from_numpy(np.unpackbits(self._evidence[rows], axis=-1, count=self.size).astype(bool))

    def part_masks(self, rows: slice = slice(None)) -> Tensor:
        """Amodal masks of `table.parts`, empty for an absent part: bool `[n, P, S, S]`."""
        absent = np.zeros((self.size, -(-self.size // 8)), np.uint8)
        packed = np.array([[masks.get(part, absent) for part in self.table.parts] for masks in self._parts[rows]])
        return torch.from_numpy(np.unpackbits(packed, axis=-1, count=self.size).astype(bool))

    def measure(self, maps: Tensor, contrasts: Tensor | None = None, rows: slice = slice(None)) -> dict[str, Tensor]:
        """Judge the maps of one method.

        Args:
            maps: `[n, Q, h, w]`, of the classes `self.classes[rows]`, at any resolution.
            contrasts: `[n, K, h, w]`, maps of what separates the class from its sibling in each slot, from a method that
                has its own (FinerCAM, an oracle); None for max(a_c - a_d, 0).
            rows: the pictures.

        Returns:
            one number a picture `[n]`, or a slot `[n, K]` for `contrast_*`; nan where it is undefined. For `sd`, `sd_swap`,
            `pc`, `dc`, `ts` and the shortcut's more is better; `part_deletion` is better low. `sd_swap` is SD where slots
            are swapped for the sibling's and the importance is the mass on the pair's evidence. `pc`, `dc` and the curves
            are nan for a wrong prediction, which the map of the right class cannot explain. `pc_threshold` and
            `dc_threshold` are FunnyBirds', at their best threshold. `shortcut_*` is nan where the model does not rely on
            the roundel (`relies`), `shortcut_top` is 1 where no other part has more importance. The best threshold is that
            of these pictures: measure all of them at once for it.
        """
        maps = maps.detach().float().cpu()
        table, own = self.table.rows(rows), self.classes[rows, 0]
        separating, masks, slots = self.evidence(rows), self.part_masks(rows), len(self.slots)
        if contrasts is None:
            contrasts = (maps[:, :1] - maps[:, 1 : 1 + slots]).clamp(min=0)
        scores = contrast_scores(contrasts.detach().float().cpu(), separating)

        importance = part_importance(maps[:, 0], masks)
        scores["sd"] = single_deletion(importance, table, own)
        picture = torch.arange(len(own))
        falls = table.logits[picture, 0, own][:, None] - self._swapped[rows][picture, :slots, own]  # [n, K]
        scores["sd_swap"] = rank_agreement(part_importance(maps[:, 0], separating), falls, torch.ones_like(falls).bool())

        wrong = ~self.correct[rows]
        scores["pc"], scores["dc"] = top_k_checks(importance, table)
        best = best_threshold(importance, table, own)
        scores["pc_threshold"] = preservation_check(importance, table)[:, best]
        scores["dc_threshold"] = deletion_check(importance, table)[:, best]
        most, least = (curve_area(deletion_curve(importance, table, own, descending=order)) for order in (True, False))
        scores |= {"part_deletion": most, "part_srg": least - most}
        scores["part_insertion"] = curve_area(insertion_curve(importance, table, own))
        for name in ("pc", "dc", "pc_threshold", "dc_threshold", "part_deletion", "part_srg", "part_insertion"):
            scores[name] = scores[name].masked_fill(wrong, torch.nan)

        if slots > 1:
            scores["ts"] = self._target_sensitivity(maps[:, -2:], separating, rows)
        if "roundel" in table.parts:
            roundel, used = table.parts.index("roundel"), self.relies[rows]
            top = importance[:, roundel] >= importance.masked_fill(~table.present, -torch.inf).amax(-1)
            found = {"pointing": pointing(maps[:, 0], masks[:, roundel]), "energy": energy(maps[:, 0], masks[:, roundel])}
            for name, values in (found | {"top": (top & (importance[:, roundel] > 0)).float()}).items():
                scores[f"shortcut_{name}"] = values.masked_fill(~used, torch.nan)
        return scores

    def _target_sensitivity(self, maps: Tensor, separating: Tensor, rows: slice) -> Tensor:
        groups = self._group_masks(separating, rows)
        mass = torch.stack([part_importance(maps[:, i], groups) for i in (0, 1)], 1)  # [n, map, group]
        # Pictures of the two classes: each is the scene with everything but its own group swapped.
        logit = self._swapped[rows][:, -2:].gather(-1, self.classes[rows, None, -2:].expand(-1, 2, -1))  # [n, picture, class]
        holds = (logit[:, 0, 0] > logit[:, 1, 0]) & (logit[:, 1, 1] > logit[:, 0, 1])
        return target_sensitivity(mass, holds)

    def _group_masks(self, separating: Tensor, rows: slice) -> Tensor:
        """Where the slots of each group are told from their swaps: bool `[n, 2, S, S]`."""
        return (self._groups[rows][..., None, None] & separating[:, None]).any(2)

    def oracle(self, grid: tuple[int, int], rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Maps and contrasts for `measure` that know the truth, at the grid of a map: what it could reach at best.

        Contrasts are the evidence, pooled. The map of the own class has on each part a mass equal to the drop of the logit;
        those of the TS classes are the evidence of their groups. It is no ceiling of `sd_swap`, which wants a map of its own.
        """
        separating, masks = self.evidence(rows), self.part_masks(rows).float()
        contrasts = pool_to(separating.float().flatten(0, 1), grid).unflatten(0, separating.shape[:2])
        drops = self.table.rows(rows).drops(self.classes[rows, 0])
        own = (drops / masks.sum((-2, -1)).clamp(min=1))[..., None, None] * masks  # [n, P, S, S]
        maps = torch.zeros(len(own), self.classes.shape[1], *grid)
        maps[:, 0] = pool_to(own.sum(1), grid)
        if len(self.slots) > 1:
            groups = self._group_masks(separating, rows).float()
            maps[:, -2:] = pool_to(groups.flatten(0, 1), grid).unflatten(0, groups.shape[:2])
        return maps, contrasts

    def fixed_pixel(self) -> dict[str, Tensor]:
        """Contrast scores of the best map that does not look at the picture: the mean evidence of each slot in the others.

        Its peak is the pixel that lies in most evidence masks; chosen on the pictures of the other folds. Each `[N, K]`.
        """
        separating = self.evidence()
        fold = torch.arange(len(separating)) % FOLDS
        parts = []
        for held in range(FOLDS):
            if (fold == held).any() and (fold != held).any():
                mean = separating[fold != held].float().mean(0)  # [K, S, S]
                mine = separating[fold == held]
                parts.append((fold == held, contrast_scores(mean.expand(len(mine), -1, -1, -1), mine)))
        scores = {name: torch.full(separating.shape[:2], torch.nan) for name in parts[0][1]} if parts else {}
        for chosen, values in parts:
            for name in scores:
                scores[name][chosen] = values[name]
        return scores


def contrast_scores(contrasts: Tensor, separating: Tensor) -> dict[str, Tensor]:
    """Pointing, energy and average precision of contrast maps `[n, K, h, w]` on their evidence bool `[n, K, S, S]`."""
    shape = separating.shape[:2]
    flat, masks = contrasts.flatten(0, 1), separating.flatten(0, 1)
    metrics = {"pointing": pointing, "energy": energy, "ap": average_precision}
    return {f"contrast_{name}": metric(flat, masks).unflatten(0, shape) for name, metric in metrics.items()}


def _groups(record: Record, slots: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two disjoint groups of half of the slots, drawn from the seed of the picture."""
    order = np.random.default_rng(record["z"]).permutation(len(slots))
    half = len(slots) // 2
    return [slots[i] for i in order[:half]], [slots[i] for i in order[half : 2 * half]]


def _sharing(record: Record, siblings: Sequence[Variants], group: Sequence[str]) -> Variants:
    """The class that shares the slots of `group` with the picture and no other slot that varies."""
    swaps: Variants = {}
    for variants in siblings:
        swaps |= {slot: variants[slot] for slot in variants if variants[slot] != record["variants"][slot] and slot not in group}
    return {**record["variants"], **swaps}
