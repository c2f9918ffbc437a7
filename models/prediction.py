"""Predictions for an image: its most probable classes, whether it shows any of the known ones, a set of classes, a family."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from torch import Tensor

from models.losses import class_probabilities
from models.thresholds import NOT_CALIBRATED, REFUSED, Thresholds, rank

UNKNOWN = "none of the known classes"


class Prediction(NamedTuple):
    """Prediction for an image.

    names, probabilities: the most probable classes, best first.
    answer: the most certain of what is said: `UNKNOWN`; else the most probable class; else, where the conformal set has several,
        their family, or how many they are.
    known: whether the image shows any of the known classes; None where no threshold is known.
    conformal_set: the classes of the conformal set, most probable first; None where none was asked for.
    family, family_probability: the most probable family; None without families.
    """

    names: list[str]
    probabilities: list[float]
    answer: str = ""
    known: bool | None = None
    conformal_set: list[str] | None = None
    family: str | None = None
    family_probability: float | None = None

    def __repr__(self) -> str:
        classes = ", ".join(f"{name} {value:.1%}" for name, value in zip(self.names, self.probabilities, strict=True))
        return f"Prediction({f'{self.answer}: ' if self.answer != self.names[0] else ''}{classes})"


class Reader:
    """From logits to predictions.

    Args:
        classes: a name for each logit.
        loss: of the model, which decides what a logit means.
        thresholds: of the checkpoint; None where it has none.
        refused: stated share of images of known classes that are refused; 0: no image is. None: `REFUSED` where thresholds are
            known, else 0.
        coverage: stated coverage of the conformal sets; None: there are none.
        families: name of the family of each class; None: there are none.

    Raises:
        ValueError: `refused` or `coverage` is not between 0 and 1, or needs thresholds or more calibration images than there are.
    """

    def __init__(
        self,
        classes: Sequence[str],
        loss: str,
        thresholds: Thresholds | None = None,
        refused: float | None = None,
        coverage: float | None = None,
        families: Sequence[str] | None = None,
    ) -> None:
        self.classes, self.loss, self.thresholds, self.families = list(classes), loss, thresholds, families
        self.family_of = dict(zip(classes, families or (), strict=families is not None))
        if thresholds is None and (refused or coverage is not None):
            raise ValueError(f"{f'refused {refused:g}' if refused else f'coverage {coverage:g}'}: {NOT_CALIBRATED}")
        self.least_score: float | None = None
        self.least_probability: float | None = None
        if thresholds is not None:
            if refused is None:
                refused = REFUSED if rank(thresholds.images, REFUSED) else 0
            self.least_score = thresholds.refusal_threshold(refused) if refused else None
            self.least_probability = None if coverage is None else thresholds.set_threshold(coverage)

    def __call__(self, logits: Tensor, features: Tensor, topk: int) -> list[Prediction]:
        """Return the predictions of logits `[B, C]` and pooled features `[B, D]`, each with its `topk` most probable classes."""
        probabilities = class_probabilities(logits, self.loss)  # [B, C]
        ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
        known: list[bool | None] = [None] * len(logits)
        if self.thresholds is not None and self.least_score is not None:
            known = (self.thresholds.score_of(logits, features, self.loss) >= self.least_score).tolist()
        predictions = []
        for row, (values, places, is_known) in enumerate(zip(ordered.tolist(), order.tolist(), known, strict=True)):
            names = [self.classes[place] for place in places]
            chosen = self._conformal_set(values, names)
            family: tuple[str, float] | tuple[None, None] = (None, None)
            if self.families is not None:
                family = max(self._families_of(probabilities[row]).items(), key=itemgetter(1))
            answer = self._answer(is_known, names[0], chosen)
            predictions.append(Prediction(names[:topk], values[:topk], answer, is_known, chosen, *family))
        return predictions

    def _conformal_set(self, values: Sequence[float], names: Sequence[str]) -> list[str] | None:
        """Return the names of the classes whose probabilities (descending) reach the threshold, at least the first."""
        if self.least_probability is None:
            return None
        count = sum(value >= self.least_probability for value in values)
        return list(names[: max(1, count)])

    def _families_of(self, probabilities: Tensor) -> dict[str, float]:
        """Return the probability of each family: the sum of those of its classes.

        Of sigmoids, which are trained to stay above 1/C each, the largest: absent classes must not add up to a family.
        """
        totals: dict[str, float] = {}
        for family, value in zip(self.families or (), probabilities.tolist(), strict=True):
            before = totals.get(family, 0.0)
            totals[family] = max(before, value) if self.loss == "bce" else before + value
        return totals

    def _answer(self, is_known: bool | None, first: str, chosen: Sequence[str] | None) -> str:
        if is_known is False:
            return UNKNOWN
        if chosen is None or len(chosen) == 1:
            return first
        families = {self.family_of[name] for name in chosen} if self.families is not None else set()
        return families.pop() if len(families) == 1 else f"one of {len(chosen)} classes"
