"""Sums over images that become accuracies and losses."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from util.distributed import Ranks


def top_k_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Bool `[B]`: whether the label is among the `k` highest of `logits` `[B, C]`; all False where a logit is not finite."""
    if k > logits.shape[1]:
        raise ValueError(f"acc@{k} needs at least {k} classes, there are {logits.shape[1]}")
    hit = (logits.topk(k, dim=1).indices == labels[:, None]).any(1)
    return hit & logits.isfinite().all(1)


class Sums:
    """Loss and hits summed on the device, read only when somebody asks.

    `acc5` is None with fewer than 5 classes: there it would be a hit by definition, or another number under its name.
    """

    def __init__(self, device: torch.device, num_classes: int) -> None:
        self.top5 = num_classes >= 5
        self.values = torch.zeros(3, dtype=torch.float64, device=device)  # loss, top-1 hits, top-5 hits
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch: `logits` `[B, C]`, `labels` `[B]`, and the sum of its losses."""
        logits = logits.detach().float()
        hits = top_k_correct(logits, labels, 1).sum()
        hits5 = top_k_correct(logits, labels, 5).sum() if self.top5 else hits
        self.values += torch.stack([loss.detach().double(), hits.double(), hits5.double()])
        self.images += len(labels)

    def over(self, ranks: Ranks) -> Sums:
        """The sums of all processes together; of one that is alone, these."""
        if ranks.size == 1:
            return self
        together = copy(self)
        together.values, together.images = ranks.sum(self.values), ranks.sum(self.images)
        return together

    def means(self) -> dict[str, Any]:
        """`loss` (nats per image), `acc1` and `acc5` (percent), over all images so far; waits for the device."""
        loss, hits, hits5 = (self.values / max(self.images, 1)).tolist()
        return {"loss": loss, "acc1": 100 * hits, "acc5": 100 * hits5 if self.top5 else None}


def describe(stats: dict[str, Any]) -> str:
    """`loss 0.1234  acc@1 91.20 %  acc@5 99.10 %`, and a word where acc@5 does not exist."""
    acc5 = stats["acc5"]
    last = "acc@5 n/a (fewer than 5 classes)" if acc5 is None else f"acc@5 {acc5:.2f} %"
    return f"loss {stats['loss']:.4f}  acc@1 {stats['acc1']:.2f} %  {last}"
