"""Loss terms and accuracies, summed over images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from .ranks import Ranks


class Sums:
    """Losses and top-k hits, summed on the device; reading them waits for it.

    Args:
        device: of the sums; those of mps, which has no float64, are on the CPU.
        num_classes: C; with fewer than 5, where every image would be a hit, `acc5` is None.
        terms: names of the loss terms; empty: only their sum is kept.
    """

    def __init__(self, device: torch.device, num_classes: int, terms: Sequence[str] = ()) -> None:
        self.top5, self.terms, self.images = num_classes >= 5, tuple(terms), 0
        # Loss, top-1 hits, top-5 hits and the T terms: [3 + T]
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.values = torch.zeros(3 + len(self.terms), dtype=torch.float64, device=self.device)

    def add(self, logits: Tensor, labels: Tensor, losses: Mapping[str, Tensor]) -> None:
        """Add a batch: logits `[B, C]`, labels `[B]`, and each loss term, summed over its images (scalars)."""
        logits, labels = logits.detach().float().to(self.device), labels.to(self.device)
        hits = _top_k_hits(logits, labels, 1)
        hits5 = _top_k_hits(logits, labels, 5) if self.top5 else hits
        terms = {name: loss.detach().to(self.device).double() for name, loss in losses.items()}
        total = torch.stack(list(terms.values())).sum()
        self.values += torch.stack([total, hits.double(), hits5.double(), *(terms[name] for name in self.terms)])
        self.images += len(labels)

    def all_reduce(self, ranks: Ranks) -> Sums:
        """Return the sums over all processes; in a single process, `self`."""
        if ranks.size == 1:
            return self
        total = copy(self)
        total.values, total.images = ranks.sum(self.values), ranks.sum(self.images)
        return total

    def restore(self, values: Tensor, images: int, terms: Sequence[str]) -> None:
        """Load saved sums; without values per term (earlier versions) the loss counts as the term `class`."""
        self.values[:3] = values[:3]
        saved = dict(zip(terms, values[3:] if len(values) > 3 else values[:1], strict=True))
        for index, name in enumerate(self.terms, 3):
            self.values[index] = saved.get(name, 0.0)
        self.images = images

    def means(self) -> dict[str, Any]:
        """Return the means over all images so far: `loss`, `loss_<term>` (nats), `acc1` and `acc5` (percent)."""
        loss, hits, hits5, *terms = (self.values / max(self.images, 1)).tolist()
        accuracies = {"loss": loss, "acc1": 100 * hits, "acc5": 100 * hits5 if self.top5 else None}
        return accuracies | {f"loss_{name}": term for name, term in zip(self.terms, terms, strict=True)}

    def finite_means(self, where: str = "") -> dict[str, Any]:
        """Return `means()`; raise FloatingPointError, with the names of the terms and `where`, if the loss is not finite."""
        stats = self.means()
        if not math.isfinite(stats["loss"]):
            names = [name for name in self.terms if not math.isfinite(stats[f"loss_{name}"])]
            terms = f" (term {', '.join(names)})" if names and len(self.terms) > 1 else ""
            raise FloatingPointError(f"the loss is {stats['loss']}{terms}{where}")
        return stats


def format_stats(stats: dict[str, Any]) -> str:
    """Format means for a line: `loss 0.1234 (class 0.1000, mosaic 0.0234)  acc@1 91.20 %  acc@5 99.10 %  ECE 0.031`, if known."""
    acc5 = "n/a (fewer than 5 classes)" if stats["acc5"] is None else f"{stats['acc5']:.2f} %"
    terms = {name.removeprefix("loss_"): value for name, value in stats.items() if name.startswith("loss_")}
    detail = f" ({', '.join(f'{name} {value:.4f}' for name, value in terms.items())})" if len(terms) > 1 else ""
    ece = f"  ECE {stats['ece']:.3f}" if "ece" in stats else ""
    return f"loss {stats['loss']:.4f}{detail}  acc@1 {stats['acc1']:.2f} %  acc@5 {acc5}{ece}"


def _top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the number of images whose label is among the `k` highest logits; an image with a non-finite logit is no hit."""
    hits = (logits.topk(k, dim=1).indices == labels[:, None]).any(1)  # [B]
    return (hits & logits.isfinite().all(1)).sum()
