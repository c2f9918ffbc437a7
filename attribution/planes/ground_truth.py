"""Ground truth of factorial planes: where classes differ, masks of parts, and logits of counterfactual images.

A mask is rendered from the seed z of the image's record at the size that is wanted. The eval transforms resize a (square) image
as a whole, so that a mask of the model's input size lies where the model sees the part. Counterfactual images are renders of the
same scene with parts removed or swapped. All subsets of the removable parts of an image (16 for the four slots) are scored once
for a model; every map of every method is then measured by lookup in that table, without another forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.planes import PARTS, SLOTS, counterfactual, render, renderer
from datasets.planes.dataset import PlanesSplit, Record
from datasets.planes.presets import Preset, Variants
from util.ranks import SINGLE_PROCESS, Ranks

Prepare = Callable[[Tensor], Tensor]  # an image uint8 [3, S, S] -> input of the network [3, H, W], normalised
Logits = Callable[[Tensor], Tensor]  # [B, 3, H, W] -> [B, C]

REMOVABLE = tuple(part for part in PARTS if part in SLOTS or part == "roundel")


class Comparison(NamedTuple):
    """The classes that an image is compared with.

    siblings: for each of the K slots the class that differs from the image's in this slot alone.
    groups: two disjoint halves of the slots, drawn from the seed of the image, as bool `[2][K]`.
    sharing: for each group the class that shares its slots with the image and differs in all others; empty where K is 1.
    """

    siblings: list[Variants]
    groups: list[list[bool]]
    sharing: list[Variants]


def compare(split: PlanesSplit, record: Record) -> Comparison:
    """Choose the classes that an image is compared with."""
    slots, own = split.slots, record["variants"]
    siblings = [sibling(split.preset, record, slot) for slot in slots]
    order = np.random.default_rng(record["z"]).permutation(len(slots))
    half = len(slots) // 2
    halves = [{slots[i] for i in order[:half]}, {slots[i] for i in order[half : 2 * half]}]
    sharing = []
    for group in halves if len(slots) > 1 else ():
        sharing.append(own | {slot: other[slot] for slot, other in zip(slots, siblings, strict=True) if slot not in group})
    return Comparison(siblings, [[slot in group for slot in slots] for group in halves], sharing)


def sibling(preset: Preset, record: Record, slot: str) -> Variants:
    """Return the class that differs from the record's in `slot` alone; of several, the seed of the image chooses."""
    own = record["variants"][slot]
    others = [variant for variant in preset.slots[slot] if variant != own]
    # z // 3: the lowest digit to base 3 is that of the split.
    return {**record["variants"], slot: others[record["z"] // 3 % len(others)]}


def difference_mask(record: Record, other: Mapping[str, str | None], size: int | None = None) -> np.ndarray:
    """Return where an image differs from another class, bool `[size, size]`: see `renderer.difference_mask`."""
    return renderer.difference_mask({**record, "size": size or record["size"]}, other)


def part_masks(record: Record, size: int | None = None) -> dict[str, np.ndarray]:
    """Return amodal masks bool `[size, size]` of the parts of an image, fuselage and wings included, without absent parts."""
    return render(record["variants"], record["z"], size or record["size"], roundel=record.get("roundel"), sensor=False).amodal


@dataclass(frozen=True)
class RemovalTable:
    """Logits of N images with every subset of their parts removed.

    parts: names of the P parts. present: bool `[N, P]`. logits: `[N, 2^P, C]`; in subset s part i is removed if bit i of s
    is set. Removing a part that is absent changes nothing. loss: that the model was trained with, for probabilities.
    """

    parts: tuple[str, ...]
    present: Tensor
    logits: Tensor
    loss: str = "ce"

    def logits_without(self, removed: Tensor) -> Tensor:
        """Return the logits `[N, ..., C]` without the parts `removed`, bool `[N, ..., P]`."""
        bits = 2 ** torch.arange(len(self.parts), device=removed.device)
        subset = (removed * bits).sum(-1)  # [N, ...]
        image = torch.arange(len(subset), device=removed.device).view(-1, *[1] * (subset.dim() - 1))
        return self.logits[image, subset]

    def drops(self, classes: Tensor) -> Tensor:
        """Return the drop of the logit of `classes` `[N]` when one part is removed: `[N, P]`, 0 for an absent part."""
        image = torch.arange(len(classes))
        single = self.logits_without(torch.eye(len(self.parts), dtype=torch.bool).expand(len(classes), -1, -1))  # [N, P, C]
        return self.logits[image, 0, classes][:, None] - single[image, :, classes]

    def select(self, index: slice) -> RemovalTable:
        """Return the table of a part of the images."""
        return replace(self, present=self.present[index], logits=self.logits[index])


def score_counterfactuals(
    records: Sequence[Record],
    swaps: Sequence[Sequence[Variants]],
    prepare: Prepare,
    logits: Logits,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    loss: str = "ce",
) -> tuple[RemovalTable, Tensor]:
    """Score N images with every subset of their parts removed, and with their parts swapped for those of M other classes each.

    Args:
        prepare, logits, batch_size, progress, ranks: as for `score_renders`.
        loss: of the table.

    Returns:
        The table of the removals, and the logits of the swaps, `[N, M, C]`.
    """
    removed = _removal_requests(records)
    swapped = [(record, variants) for record, row in zip(records, swaps, strict=True) for variants in row]
    scores = score_renders([*removed, *swapped], prepare, logits, batch_size, progress, ranks)
    return _removal_table(records, scores[: len(removed)], loss), scores[len(removed) :].view(len(records), -1, scores.shape[1])


def score_renders(
    requests: Sequence[tuple[Record, Mapping[str, Any]]],
    prepare: Prepare,
    logits: Logits,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> Tensor:
    """Render counterfactuals and score them: float32 `[R, C]` on the CPU.

    Args:
        requests: a record and what is swapped in it, as `datasets.planes.counterfactual` takes it.
        prepare: the eval transform and the normalisation.
        logits: the classifier.
        batch_size: images a forward pass.
        progress: called with the numbers of images that are done and of all.
        ranks: the processes that share the passes.
    """

    def images(chunk: Sequence[tuple[Record, Mapping[str, Any]]]) -> Tensor:
        pictures = (torch.from_numpy(counterfactual(record, **swap).image).permute(2, 0, 1) for record, swap in chunk)
        return torch.stack([prepare(picture) for picture in pictures])

    chunks = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    scored, done = [], 0
    own = chunks[ranks.rank :: ranks.size]
    for scores in ranks.gather_in_order(logits(images(chunk)).detach().float().cpu() for chunk in own):
        scored.append(scores)
        done += len(scores)
        if progress:
            progress(done, len(requests))
    return torch.cat(scored)


def present_parts(record: Record) -> tuple[str, ...]:
    """Return the removable parts that an image has; `plain` wingtips are no part."""
    return tuple(part for part in REMOVABLE if part in record["boxes"])


def _removal_requests(records: Sequence[Record]) -> list[tuple[Record, dict[str, None]]]:
    """Return the renders of every subset of the parts of each image, in the order of `_removal_table`."""
    requests = []
    for record in records:
        parts = present_parts(record)
        for subset in range(2 ** len(parts)):
            requests.append((record, {part: None for i, part in enumerate(parts) if subset >> i & 1}))
    return requests


def _removal_table(records: Sequence[Record], scores: Tensor, loss: str) -> RemovalTable:
    """Arrange the logits of `_removal_requests(records)`, `[R, C]`."""
    parts = tuple(part for part in REMOVABLE if any(part in present_parts(record) for record in records))
    logits = torch.empty(len(records), 2 ** len(parts), scores.shape[1])
    present = torch.zeros(len(records), len(parts), dtype=torch.bool)
    start = 0
    for n, record in enumerate(records):
        own = [parts.index(part) for part in present_parts(record)]
        present[n, own] = True
        # Row j of an image's scores has the j-th subset of the parts it has: gather the bits of these parts.
        subsets = torch.arange(2 ** len(parts))
        rows = sum(((subsets >> part & 1) << i for i, part in enumerate(own)), torch.zeros_like(subsets))
        logits[n] = scores[start + rows]
        start += 2 ** len(own)
    assert start == len(scores)
    return RemovalTable(parts, present, logits, loss)
