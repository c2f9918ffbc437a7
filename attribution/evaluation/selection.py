"""Which pictures are measured, and which class each is to be told apart from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attribution.metrics.faithfulness import Score
from util.distributed import ALONE, Ranks
from util.progress import Progress


@torch.no_grad()
def score_split(
    score: Score,
    loader: Any,
    normalisation: Mapping[str, list[float]],
    classes: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Score every picture of a split once.

    Args:
        score: probabilities `[B, C]` of normalised images.
        loader: unpadded batches of the split, in any order; those of `ranks`.
        normalisation: mean and standard deviation of the input.
        classes: C.
        device: where the model is.

    Returns:
        `predicted` int64 `[N]`, in the order of the split, and `confusion` `[C, C]`, for `most_confused`.

    Raises:
        ValueError: the model gives scores that are not finite.
    """
    confusion, predicted = torch.zeros(classes, classes, dtype=torch.float64), torch.empty(len(loader.dataset), dtype=torch.long)

    def scored() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in loader:
            scores = score(batch.to(device).normalise(**normalisation)).double().cpu()
            if not scores.isfinite().all():
                raise ValueError("the model gives scores that are not finite: the file is damaged")
            yield batch.labels, batch.indices, scores

    with Progress(len(loader.dataset), "scoring the split") as progress:
        for labels, indices, scores in ranks.gather_in_order(scored()):
            confusion.index_add_(0, labels, scores)
            predicted[indices] = scores.argmax(1)
            progress.step(len(labels))
    return {"predicted": predicted, "confusion": confusion}


def most_confused(confusion: Tensor) -> Tensor:
    """The sibling of each class: the one that takes most of its probability, and gives most to it.

    Args:
        confusion: `[C, C]`, for each true class the sum of the probabilities over its pictures. Soft, because a good model
            confuses few pictures; a class without pictures has the sibling whose pictures look most like it.

    Returns:
        int64 `[C]`, never the class itself (unless it is the only one).
    """
    mutual = confusion + confusion.T
    return mutual.masked_fill(torch.eye(len(mutual), dtype=torch.bool), -1).argmax(1)


def in_turn(labels: Sequence[int], seed: int = 0) -> list[int]:
    """An order of all pictures in which the classes take turns: any beginning of it holds as many of each, as far as they go.

    Within a class, and in each turn, the order is random.
    """
    generator = torch.Generator().manual_seed(seed)
    of_class: dict[int, int] = {}
    keys: list[tuple[int, int, int]] = []
    for place in torch.randperm(len(labels), generator=generator).tolist():
        turn = of_class[labels[place]] = of_class.get(labels[place], -1) + 1
        keys.append((turn, len(keys), place))
    return [place for _, _, place in sorted(keys)]
