"""What a classifier says when parts are removed or swapped: real renders of the same scene, no grey patches.

All subsets of the removable parts of a picture (16 for the four slots) are rendered and scored once for a model; every map
of every method is then judged by looking up that table, without another forward pass. Cost for a picture: at most 2^P
renders of 7-20 ms and as many forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datasets.planes import PARTS, SLOTS, counterfactual
from datasets.planes.annotations import Record
from util.distributed import ALONE, Ranks

Prepare = Callable[[Tensor], Tensor]  # a picture uint8 [3, S, S] -> input of the network [3, H, W], normalised
Logits = Callable[[Tensor], Tensor]  # [B, 3, H, W] -> [B, C]

REMOVABLE = tuple(part for part in PARTS if part in SLOTS or part == "roundel")


@dataclass(frozen=True)
class RemovalTable:
    """Logits of N pictures with every subset of their parts removed.

    parts: names of the P parts. present: bool `[N, P]`. logits: `[N, 2^P, C]`; in subset s part i is removed if bit i of s
    is set. Removing a part that is absent changes nothing.
    """

    parts: tuple[str, ...]
    present: Tensor
    logits: Tensor

    def at(self, removed: Tensor) -> Tensor:
        """Logits `[N, ..., C]` where the parts `removed` bool `[N, ..., P]` are."""
        bits = 2 ** torch.arange(len(self.parts), device=removed.device)
        subset = (removed * bits).sum(-1)  # [N, ...]
        picture = torch.arange(len(subset), device=removed.device).view(-1, *[1] * (subset.dim() - 1))
        return self.logits[picture, subset]

    def drops(self, classes: Tensor) -> Tensor:
        """How much the logit of class `classes` `[N]` falls when one part is removed: `[N, P]`, 0 for an absent part."""
        picture = torch.arange(len(classes))
        single = self.at(torch.eye(len(self.parts), dtype=torch.bool).expand(len(classes), -1, -1))  # [N, P, C]
        return self.logits[picture, 0, classes][:, None] - single[picture, :, classes]

    def rows(self, index: slice | Tensor) -> RemovalTable:
        """The table of some of the pictures."""
        return RemovalTable(self.parts, self.present[index], self.logits[index])


def score_renders(
    requests: Sequence[tuple[Record, Mapping[str, Any]]],
    prepare: Prepare,
    logits: Logits,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Render counterfactuals and score them.

    Args:
        requests: a record and what is swapped in it, as `datasets.planes.counterfactual` takes it.
        prepare: the eval transform and the normalisation.
        logits: the classifier.
        batch_size: pictures a forward pass.
        progress: called with the number of pictures after each pass.
        ranks: who share the passes.

    Returns:
        float32 `[R, C]` on the CPU.
    """
    chunks = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    mine = (torch.stack(list(_inputs(chunk, prepare))) for chunk in chunks[ranks.rank :: ranks.size])
    scored = []
    for scores in ranks.gather_in_order(logits(images).detach().float().cpu() for images in mine):
        scored.append(scores)
        if progress:
            progress(len(scores))
    return torch.cat(scored)


def _inputs(requests: Sequence[tuple[Record, Mapping[str, Any]]], prepare: Prepare) -> Iterator[Tensor]:
    for record, swap in requests:
        yield prepare(torch.from_numpy(counterfactual(record, **swap).image).permute(2, 0, 1))


def present_parts(record: Record) -> tuple[str, ...]:
    """The removable parts that a picture has; `plain` wingtips are no part."""
    return tuple(part for part in REMOVABLE if part in record["boxes"])


def removals(records: Sequence[Record]) -> list[tuple[Record, dict[str, None]]]:
    """The renders that `removal_table` asks for: to count them, or to score them in one go with others."""
    requests = []
    for record in records:
        parts = present_parts(record)
        for subset in range(2 ** len(parts)):
            requests.append((record, {part: None for i, part in enumerate(parts) if subset >> i & 1}))
    return requests


def removal_table(records: Sequence[Record], scores: Tensor) -> RemovalTable:
    """Arrange the logits of `removals(records)`, `[R, C]`."""
    parts = tuple(part for part in REMOVABLE if any(part in present_parts(record) for record in records))
    logits = torch.empty(len(records), 2 ** len(parts), scores.shape[1])
    present = torch.zeros(len(records), len(parts), dtype=torch.bool)
    start = 0
    for n, record in enumerate(records):
        own = [parts.index(part) for part in present_parts(record)]
        present[n, own] = True
        # Row j of a picture's scores has its j-th subset of the parts it has: gather the bits of those parts.
        subsets = torch.arange(2 ** len(parts))
        rows = sum(((subsets >> part & 1) << i for i, part in enumerate(own)), torch.zeros_like(subsets))
        logits[n] = scores[start + rows]
        start += 2 ** len(own)
    assert start == len(scores)
    return RemovalTable(parts, present, logits)
