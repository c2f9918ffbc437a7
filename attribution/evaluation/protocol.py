"""The protocol of a measurement: its sizes, `--quick` and `--full`, and the choice of images, siblings and methods."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attribution.methods.registry import GROUND_TRUTH, METHODS, Method, Passes, methods_of
from attribution.metrics.faithfulness import Score
from datasets import ImageBatch
from models import ICN
from util.progress import Progress
from util.ranks import Ranks

MAX_CLASS_WEIGHTS = 2**29  # attention weights between classes (2 GiB in float32), above which a method must be named
COSTLY = 40  # passes a map from which on a method is spared what needs many maps of an image
TOGETHER = 100  # passes for the maps of many classes of an image from which on they are made of `costly_images` alone


@dataclass(frozen=True)
class Budget:
    """Sizes of a measurement, which are stated with every result; None is all. Counts are of images, if not said otherwise."""

    name: str
    images: int | None  # with an equal number of each class as far as it goes
    steps: int  # of a perturbation curve
    options: dict[str, dict[str, int]] = field(default_factory=dict)  # arguments of single methods
    left_out: tuple[str, ...] = ()  # methods that are measured only when they are named: variants of others
    costly_images: int | None = None  # of which methods make the maps of many classes (planes, pairs) that take many passes
    sensitivity_images: int = 32  # not of costly methods
    sensitivity_samples: int = 10  # noisy copies of each
    randomised_images: int = 64  # whose maps are made again with random weights; not of costly methods
    locality_images: int = 64
    locality_cells: int = 8  # of each
    reliance_images: int | None = None  # of the split, classified with other attention

    def passes(self, method: Method, images: Tensor) -> Passes:
        """Return the passes through the network of one map of an image of `[B, 3, H, W]`, with these options."""
        return method.passes((images.shape[2], images.shape[3]), self.options.get(method.name))

    def costly(self, method: Method, images: Tensor) -> bool:
        return sum(self.passes(method, images)) >= COSTLY

    def class_images(self, method: Method, images: Tensor, maps: int) -> int | None:
        """Return of how many images the method makes `maps` maps of different classes each; None: of all."""
        costly, passes = self.costly(method, images), self.passes(method, images)
        return self.costly_images if costly or sum(passes) * maps >= TOGETHER else None


QUICK = Budget(
    "quick", images=64, steps=28, options={method.name: dict(method.quick) for method in METHODS.values() if method.quick},
    left_out=tuple(method.name for method in METHODS.values() if method.variant_of), costly_images=8, sensitivity_images=8,
    sensitivity_samples=4, randomised_images=16, locality_images=16, locality_cells=4, reliance_images=512,
)  # fmt: skip
FULL = Budget("full", images=None, steps=224)


@torch.no_grad()
def score_split(
    score: Score, batches: Iterable[ImageBatch], normalisation: Mapping[str, list[float]], images: int, classes: int,
    device: torch.device, ranks: Ranks,
) -> dict[str, Tensor]:  # fmt: skip
    """Score every image of a split once: N `images` of C `classes`, in this process's unpadded batches, in any order.

    Returns:
        `predicted` int64 `[N]`, in the order of the split, its `probability` float64 `[N]`, and `siblings` int64 `[C]`, see
        `most_confused`.

    Raises:
        ValueError: the model gives scores that are not finite.
    """
    confusion, predicted = torch.zeros(classes, classes, dtype=torch.float64), torch.empty(images, dtype=torch.long)
    probability = torch.empty(images, dtype=torch.float64)

    def scored() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in batches:
            scores = score(batch.to(device).normalise(**normalisation)).double().cpu()
            if not scores.isfinite().all():
                raise ValueError("the model gives scores that are not finite: the file is damaged")
            yield batch.labels, batch.indices, scores

    with Progress(images, "scoring the split") as progress:
        for labels, indices, scores in ranks.gather_in_order(scored()):
            confusion.index_add_(0, labels, scores)
            probability[indices], predicted[indices] = scores.max(1)
            progress.step(len(labels))
    return {"predicted": predicted, "probability": probability, "siblings": most_confused(confusion)}


def most_confused(confusion: Tensor) -> Tensor:
    """Return the sibling of each class, int64 `[C]`: the other class that exchanges most probability with it.

    `confusion` `[C, C]` sums the probabilities over the images of each true class. It is soft, because a good model confuses
    few images; the sibling of a class without images is the class whose images score highest for it.
    """
    siblings = torch.empty(len(confusion), dtype=torch.long)
    for index in range(len(confusion)):  # row by row: with thousands of classes a second matrix would take gigabytes
        mutual = confusion[index] + confusion[:, index]
        mutual[index] = -1
        siblings[index] = mutual.argmax()
    return siblings


def alternate_classes(labels: Sequence[int], seed: int = 0) -> list[int]:
    """Return a random order of all images in which the classes alternate: any beginning is as balanced as the classes allow."""
    generator = torch.Generator().manual_seed(seed)
    rounds: dict[int, int] = {}
    keys: list[tuple[int, int, int]] = []
    for place in torch.randperm(len(labels), generator=generator).tolist():
        turn = rounds[labels[place]] = rounds.get(labels[place], -1) + 1
        keys.append((turn, len(keys), place))
    return [place for _, _, place in sorted(keys)]


def choose_methods(
    model: ICN, names: Sequence[str] | None, ours: str | None, budget: Budget, truth: Collection[str] = GROUND_TRUTH
) -> tuple[list[Method], str]:
    """Return the methods, in the order of the registry, and `ours`, which represents ICN (None: the decoder's default).

    Controls are added to `names`; None: all that apply and that the budget does not leave out. Methods whose package is missing
    are left out, with a message, and so are those that take gigabytes with so many classes and were not named.
    `truth`: the ground truth that there is.

    Raises:
        ValueError: a method does not apply to the model or lacks its ground truth, or the package of `ours` is missing.
    """
    ours = ours or model.decoder_spec.default_map
    for flag, asked in (("--ours", [ours]), ("--methods", names)):
        try:
            methods_of(model, asked, truth)
        except ValueError as error:
            raise ValueError(f"{flag} {error}") from None
    applicable = {method.name for method in methods_of(model, truth=truth)}
    chosen = applicable - set(budget.left_out) if names is None else set(names)
    chosen |= {ours} | {name for name in applicable if METHODS[name].family == "control"}
    if missing := sorted(name for name in chosen if not METHODS[name].is_installed):
        install = "pip install " + " ".join(f"'{package}'" for package in sorted({METHODS[name].requires for name in missing}))
        if ours in missing:
            raise ValueError(f"--ours {ours} needs a package that is not installed: {install}")
        print(f"{', '.join(missing)} left out: a package is not installed ({install})")
        chosen -= set(missing)
    large = {name for name in chosen if METHODS[name].class_weights(model) > MAX_CLASS_WEIGHTS}
    if unnamed := sorted(large - {ours, *(names or ())}):
        gigabytes = METHODS[unnamed[0]].class_weights(model) * 4 / 2**30
        reason = f"{model.num_classes} classes would take {gigabytes:.1f} GiB of attention between them"
        print(f"{', '.join(unnamed)} left out: {reason}; name them in --methods to measure them anyway")
        chosen -= set(unnamed)
    return [method for method in METHODS.values() if method.name in chosen], ours
