"""The choice of images, siblings and methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from attribution.evaluation.protocol import Budget
from attribution.methods.registry import METHODS, Method, methods_of
from attribution.metrics.faithfulness import Score
from datasets import ImageBatch
from models import ICN
from util.progress import Progress
from util.ranks import SINGLE_PROCESS, Ranks


@torch.no_grad()
def score_split(
    score: Score,
    loader: Iterable[ImageBatch],
    normalisation: Mapping[str, list[float]],
    images: int,
    classes: int,
    device: torch.device,
    ranks: Ranks = SINGLE_PROCESS,
) -> dict[str, Tensor]:
    """Score every image of a split once.

    Args:
        score: probabilities `[B, C]` of normalised images.
        loader: unpadded batches of the split, in any order; those of `ranks`.
        normalisation: mean and standard deviation of the input.
        images, classes: N of the split, and C.
        device: of the model.

    Returns:
        `predicted` int64 `[N]`, in the order of the split, and `confusion` `[C, C]`, for `most_confused`.

    Raises:
        ValueError: the model gives scores that are not finite.
    """
    confusion, predicted = torch.zeros(classes, classes, dtype=torch.float64), torch.empty(images, dtype=torch.long)

    def scored() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in loader:
            scores = score(batch.to(device).normalise(**normalisation)).double().cpu()
            if not scores.isfinite().all():
                raise ValueError("the model gives scores that are not finite: the file is damaged")
            yield batch.labels, batch.indices, scores

    with Progress(images, "scoring the split") as progress:
        for labels, indices, scores in ranks.gather_in_order(scored()):
            confusion.index_add_(0, labels, scores)
            predicted[indices] = scores.argmax(1)
            progress.step(len(labels))
    return {"predicted": predicted, "confusion": confusion}


def most_confused(confusion: Tensor) -> Tensor:
    """Return the sibling of each class, int64 `[C]`: the class that exchanges most probability with it.

    A class is never its own sibling, unless it is the only one.

    Args:
        confusion: `[C, C]`, for each true class the sum of the probabilities over its images. Soft, because a good model
            confuses few images; the sibling of a class without images is the class whose images score highest for it.
    """
    mutual = confusion + confusion.T
    return mutual.masked_fill(torch.eye(len(mutual), dtype=torch.bool), -1).argmax(1)


def in_turn(labels: Sequence[int], seed: int = 0) -> list[int]:
    """Return an order of all images in which the classes alternate: any beginning of it is as balanced as the classes allow.

    Within a class, and in each round of the classes, the order is random.
    """
    generator = torch.Generator().manual_seed(seed)
    rounds: dict[int, int] = {}
    keys: list[tuple[int, int, int]] = []
    for place in torch.randperm(len(labels), generator=generator).tolist():
        turn = rounds[labels[place]] = rounds.get(labels[place], -1) + 1
        keys.append((turn, len(keys), place))
    return [place for _, _, place in sorted(keys)]


def choose_methods(model: ICN, names: Sequence[str] | None, ours: str | None, budget: Budget) -> tuple[list[Method], str]:
    """Return the methods, in the order of the registry, and the one that represents ICN.

    Args:
        names: methods to measure; controls are added. None: all that apply and that the budget does not leave out. Methods
            whose package is missing are left out, with a message.
        ours: the method that represents ICN; None: the default of the decoder.

    Raises:
        ValueError: a method does not apply to the model, or the package of `ours` is missing.
    """
    ours = ours or model.decoder_spec.default_map
    for flag, asked in (("--ours", [ours]), ("--methods", names)):
        try:
            methods_of(model, asked)
        except ValueError as error:
            raise ValueError(f"{flag} {error}") from None
    applicable = {method.name for method in methods_of(model)}
    chosen = applicable - set(budget.left_out) if names is None else set(names)
    chosen |= {ours} | {name for name in applicable if METHODS[name].family == "control"}
    if missing := sorted(name for name in chosen if not METHODS[name].is_installed):
        install = "pip install " + " ".join(f"'{package}'" for package in sorted({METHODS[name].requires for name in missing}))
        if ours in missing:
            raise ValueError(f"--ours {ours} needs a package that is not installed: {install}")
        print(f"{', '.join(missing)} left out: a package is not installed ({install})")
        chosen -= set(missing)
    return [method for method in METHODS.values() if method.name in chosen], ours
