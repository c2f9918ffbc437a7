"""What a model says beyond its most probable class, calibrated on images of known classes that it was not trained on.

Two thresholds, both order statistics of n such calibration images, so that they hold for any model and any n (split conformal
prediction, Vovk et al. 2005; Angelopoulos & Bates, Foundations and Trends in ML 2023), for images of the same kind:

- Below one an image is *refused*, as of none of the known classes: at most the stated share of known images is.
- The *conformal set* has the most probable class, and those that are at least as probable as the other threshold (LAC, Sadinle
  et al., JASA 2019: one threshold gives the smallest sets on average): the true class is in it with the stated coverage. Since
  the first class is always in, a true class that is the most probable one counts as if it had the probability 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.checkpoint_format import KEPT
from models.icn import ICNOutput
from models.losses import class_probabilities
from models.unknown import DISTANCE, LOGIT_SCORES, Mahalanobis, pool

SCORE = "max_probability"  # by which images are refused, where nothing else is asked for
SCORES = (*LOGIT_SCORES, DISTANCE)
REFUSED, COVERAGE = 0.05, 0.9  # stated share of known images that are refused, and stated coverage
SHARES, COVERAGES = (0.01, REFUSED, 0.1), (0.8, COVERAGE, 0.95, 0.99)  # those that an evaluation measures
RANKED = 100  # classes of an image that are counted for the mean size of conformal sets
CALIBRATE = "calibrate it: python -m tools.calibrate --resume <checkpoint> --dataset_path ... --dataset_name ..."
BEST_SCORE = f"with --score {DISTANCE} it tells unknown classes best where that was measured: docs/unknown.md"
NOT_CALIBRATED = f"no threshold is known, the checkpoint has none ({CALIBRATE})"


@dataclass(frozen=True)
class Thresholds:
    """The entry `thresholds` of a checkpoint.

    Attributes:
        score: name of the score in `SCORES`.
        split: name of the split that the images are of.
        files: hash of their names and classes, as of `ImageFolder.fingerprint`.
        images: number of images n.
        known: their scores, ascending; of more than `KEPT` images that many, evenly spaced among them.
        true: probabilities of their true classes, likewise, and 1 where that is the most probable class.
        gaussians: of the features of training images, the fields of `models.unknown.Mahalanobis`, for the score `DISTANCE`.
    """

    score: str
    split: str
    files: str
    images: int
    known: list[float]
    true: list[float]
    gaussians: dict[str, Tensor] | None = None

    def test(self, measured: Tensor | np.ndarray, files: str) -> Reliability:
        """Measure refusals and conformal sets on images of known classes, at `SHARES` and `COVERAGES`.

        On the calibration images themselves the thresholds are too good: half of them, chosen at random, give other thresholds
        then, and the rest is measured. What needs more calibration images is left out.

        Args:
            measured: of the images, `[N, 2 + K]` with K ranked classes, see `measure_batch`.
            files: hash of their names and classes.
        """
        measured = torch.as_tensor(measured)
        chosen, halved = self, files == self.files and len(measured) > 1
        if halved:
            order = torch.randperm(len(measured), generator=torch.Generator().manual_seed(0))
            half, measured = measured[order[: len(order) // 2]], measured[order[len(order) // 2 :]]
            chosen = Thresholds.fit(half, self.split, self.files, self.score, self.gaussians)
        known, true, top = measured[:, 0].double(), measured[:, 1].double(), measured[:, 2:].double()
        refused, coverage, size = {}, {}, {}
        for share in SHARES:
            if rank(chosen.images, share):
                refused[share] = float((known < chosen.refusal_threshold(share)).double().mean())
        for stated in COVERAGES:
            if rank(chosen.images, 1 - stated):
                threshold = chosen.set_threshold(stated)
                coverage[stated] = float((true >= threshold).double().mean())
                size[stated] = float((top >= threshold).sum(1).clamp(min=1).double().mean())
        return Reliability(len(measured), refused, coverage, size, halved)

    @staticmethod
    def fit(
        measured: Tensor | np.ndarray, split: str, files: str, score: str = SCORE, gaussians: dict[str, Tensor] | None = None
    ) -> Thresholds:
        """Calibrate on the first two columns of `measured` `[N, 2 + K]`, see `measure_batch`."""
        known, true = (_evenly_spaced(column) for column in torch.as_tensor(measured)[:, :2].T)
        return Thresholds(score, split, files, len(measured), known, true, gaussians)

    def entry(self) -> dict[str, Any]:
        """Return the entry of a checkpoint."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def score_of(self, logits: Tensor, features: Tensor, loss: str) -> Tensor:
        """Return the score `[B]` of logits `[B, C]` and pooled features `[B, D]` (`models.unknown.pool`), both on the CPU."""
        return score_of(self.score, self.gaussians, logits, features, loss)

    def refusal_threshold(self, share: float) -> float:
        """Return the score below which an image is refused, so that a `share` of known images is at most.

        Raises:
            ValueError: `share` is not between 0 and 1, or there are too few images for it.
        """
        return order_statistic(self.known, self.images, share, "refused")

    def set_threshold(self, coverage: float) -> float:
        """Return the probability from which a class is in the conformal set, besides the most probable one.

        It is 1 less the `ceil((n + 1) coverage) / n` quantile of the scores `1 - p` of the true classes.

        Raises:
            ValueError: as for `refusal_threshold`.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage {coverage:g} must lie between 0 and 1 (0.9: nine of ten sets hold the true class)")
        return order_statistic(self.true, self.images, 1 - coverage, "coverage", coverage)


def order_statistic(kept: Sequence[float], images: int, share: float, what: str, said: float | None = None) -> float:
    """Return the k-th smallest of the values of n `images`, k = floor((n + 1) share), or the next smaller one that was kept.

    A further value of the same distribution is below it with a probability of at most k / (n + 1).

    Raises:
        ValueError: `share` is not between 0 and 1, or k is 0. `what` and `said` (None: `share`) name the request.
    """
    said = share if said is None else said
    if not 0 < share < 1:
        raise ValueError(f"{what} {said:g} must lie between 0 and 1")
    k = rank(images, share)
    if k < 1:
        needed = math.ceil(1 / share - 1 - 1e-9)
        raise ValueError(f"{what} {said:g} needs at least {needed} calibration images, the checkpoint has {images}")
    return kept[max(place for place, each in enumerate(_ranks(images)) if each <= k)]


def rank(images: int, share: float) -> int:
    """Return the rank k, from 1, of the order statistic that a share of further values is below; 0: there are too few images."""
    return math.floor((images + 1) * share + 1e-9)  # (1 - 0.9) * 10 is below 1


def _ranks(images: int) -> list[int]:
    """Return the ranks, from 1, of the order statistics that are kept of so many images."""
    count = min(images, KEPT)
    return [1 + place * (images - 1) // max(count - 1, 1) for place in range(count)]


def _evenly_spaced(values: Tensor) -> list[float]:
    ordered = values.double().sort().values.tolist()
    return [ordered[rank - 1] for rank in _ranks(len(ordered))]


def score_of(name: str, gaussians: Mapping[str, Tensor] | None, logits: Tensor, features: Tensor, loss: str) -> Tensor:
    """Return the score of a name, float32 `[B]`, see `Thresholds.score_of`."""
    if gaussians is None:
        return LOGIT_SCORES[name](logits, loss)
    return Mahalanobis(**gaussians).relative_score(features.cpu()).float().to(logits.device)


def measure_batch(
    output: ICNOutput, labels: Tensor, loss: str, score: str = SCORE, ranked: int = 0,
    gaussians: Mapping[str, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Compute what the fit and the test of thresholds need of a batch: float32 `[B, 2 + min(ranked, C)]`.

    The columns are the score `score`, the probability of the true class (1 where it is the most probable one), and the `ranked`
    largest probabilities, descending.

    Args:
        output: of the model for images without padding; logits `[B, C]`.
        labels: of the true classes, `[B]`.
        loss: of the model.
        gaussians: as in `Thresholds`.
    """
    scores = score_of(score, gaussians, output.logits, pool(output.features), loss)
    probabilities = class_probabilities(output.logits, loss)  # [B, C]
    true = probabilities.gather(1, labels[:, None])
    true = true.masked_fill(labels[:, None] == probabilities.argmax(1, keepdim=True), 1.0)
    top = probabilities.topk(min(ranked, probabilities.shape[1])).values
    return torch.cat([scores[:, None], true, top], 1)


def measure_by(thresholds: Thresholds | None, loss: str) -> Callable[[ICNOutput, Tensor], Tensor]:
    """Return `measure_batch` for the test of thresholds, with `RANKED` classes; None: by the score `SCORE`."""
    score, gaussians = (SCORE, None) if thresholds is None else (thresholds.score, thresholds.gaussians)
    return partial(measure_batch, loss=loss, score=score, ranked=RANKED, gaussians=gaussians)


class Reliability(NamedTuple):
    """What thresholds are worth on images of known classes: stated values beside measured ones.

    images: number of images that were measured.
    refused: measured share of images that are refused, by the stated share.
    coverage: measured coverage of the conformal sets, by the stated one.
    set_size: mean number of classes in a set, by the stated coverage; of an image at most `RANKED` are counted.
    halved: the images are half of the calibration split, and the thresholds those of the other half.
    """

    images: int
    refused: dict[float, float]
    coverage: dict[float, float]
    set_size: dict[float, float]
    halved: bool

    def __str__(self) -> str:
        """Return the values for `REFUSED` and `COVERAGE` as a phrase; those that need more images are left out."""
        parts = []
        if REFUSED in self.refused:
            parts.append(f"{100 * self.refused[REFUSED]:.1f} % refused at a stated {100 * REFUSED:g} %")
        if COVERAGE in self.coverage:
            held = f"{100 * self.coverage[COVERAGE]:.1f} % of the conformal sets hold the true class"
            parts.append(f"{held} at a stated {100 * COVERAGE:g} %, {self.set_size[COVERAGE]:.2f} classes on average")
        where = " (calibrated on one half of the images, measured on the other)" * self.halved
        return f"{'; '.join(parts) or 'too few images'}{where}"

    def as_table(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        names = ("refused", "coverage", "set_size")
        tables = {name: {f"{stated:g}": value for stated, value in getattr(self, name).items()} for name in names}
        return {"images": self.images, **tables, "halved": self.halved}


def read_thresholds(entry: Mapping[str, Any] | None) -> Thresholds | None:
    """Return the thresholds of a checkpoint's entry, None for one without; ValueError where its score is not known."""
    if entry is None:
        return None
    if entry["score"] not in SCORES or (entry["score"] == DISTANCE) != ("gaussians" in entry):
        known = f"this ICN knows {', '.join(SCORES)}"
        raise ValueError(f"the checkpoint has thresholds of the score {entry['score'][:50]!r}, {known}: {CALIBRATE}")
    return Thresholds(**entry)
