"""Predictions from logits: known or not, conformal sets, families, and the most certain answer of these."""

from __future__ import annotations

import pytest
import torch

from models.checkpoint_format import check_entries
from models.icn import ICNOutput
from models.prediction import UNKNOWN, Prediction, Reader
from models.thresholds import Thresholds, measure_batch, read_thresholds
from models.unknown import DISTANCE, Mahalanobis

CLASSES = ["robin", "wren", "gull", "tern"]
FAMILIES = ["song", "song", "sea", "sea"]
# Clear; two of one family; two of different families; nothing.
LOGITS = torch.tensor([[9.0, 0, 0, 0], [5, 4.9, -9, -9], [5, -9, 4.9, -9], [0, 0, 0, 0.1]])
FEATURES = torch.zeros(4, 2)


def thresholds(score: str = "max_logit") -> Thresholds:
    """A threshold of 1 on the largest logit at 5 %, and of 0.1 on probabilities at a coverage of 90 %."""
    return Thresholds(score, "val", "", 19, [1.0] * 19, [0.1] * 19)


def test_without_thresholds_the_most_probable_class_is_the_answer() -> None:
    first, *_, last = Reader(CLASSES, "ce")(LOGITS, FEATURES, 2)
    assert first == Prediction(["robin", "wren"], first.probabilities, "robin") and first.known is first.conformal_set is None
    assert last.names == ["tern", "robin"] and last.answer == "tern"
    assert repr(first) == f"Prediction(robin {first.probabilities[0]:.1%}, wren {first.probabilities[1]:.1%})"
    assert [len(each.names) for each in Reader(CLASSES, "ce")(LOGITS, FEATURES, 9)] == [4] * 4


def test_answers_by_certainty() -> None:
    said = Reader(CLASSES, "ce", thresholds(), coverage=0.9, families=FAMILIES)(LOGITS, FEATURES, 1)
    assert [each.answer for each in said] == ["robin", "song", "one of 2 classes", UNKNOWN]
    assert [each.known for each in said] == [True, True, True, False]
    assert [each.conformal_set for each in said] == [["robin"], ["robin", "wren"], ["robin", "gull"], ["tern", *CLASSES[:3]]]
    assert said[3].names == ["tern"] and repr(said[3]).startswith(f"Prediction({UNKNOWN}: tern ")
    without = Reader(CLASSES, "ce", thresholds(), coverage=0.9)(LOGITS, FEATURES, 1)
    assert [each.answer for each in without] == ["robin", "one of 2 classes", "one of 2 classes", UNKNOWN]
    nobody = Reader(CLASSES, "ce", thresholds(), refused=0)(LOGITS, FEATURES, 1)
    assert [each.answer for each in nobody] == ["robin", "robin", "robin", "tern"] and nobody[3].known is None


def test_the_probability_of_a_family_is_the_sum_of_a_softmax_and_the_largest_of_sigmoids() -> None:
    logits = LOGITS[1:2]
    softmax, sigmoid = logits.softmax(1)[0], logits.sigmoid()[0]
    (summed,) = Reader(CLASSES, "ce", families=FAMILIES)(logits, FEATURES, 1)
    assert summed.family == "song" and summed.family_probability == pytest.approx(float(softmax[:2].sum()))
    (largest,) = Reader(CLASSES, "bce", families=FAMILIES)(logits, FEATURES, 1)
    assert largest.family == "song" and largest.family_probability == pytest.approx(float(sigmoid[0]))
    spread = torch.tensor([[1.0, 1.0, 1.5, -9.0]])  # the most probable class is not of the most probable family
    (said,) = Reader(CLASSES, "ce", families=FAMILIES)(spread, FEATURES, 1)
    assert said.names == ["gull"] and said.family == "song" and said.answer == "gull"


def test_what_needs_thresholds() -> None:
    for options, message in (
        ({"refused": 0.1}, "refused 0.1: no threshold is known"),
        ({"coverage": 0.9}, "coverage 0.9: no thre"),
    ):
        with pytest.raises(ValueError, match=message):
            Reader(CLASSES, "ce", **options)
    few = Thresholds("max_logit", "val", "", 4, [1.0] * 4, [0.1] * 4)  # too few for a share of 5 %: nothing is refused unasked
    assert [each.known for each in Reader(CLASSES, "ce", few)(LOGITS, FEATURES, 1)] == [None] * 4
    with pytest.raises(ValueError, match="refused 0.05 needs at least 19 calibration images, the checkpoint has 4"):
        Reader(CLASSES, "ce", few, refused=0.05)


def test_refusals_by_a_distance_of_features() -> None:
    """One class of features at 0, one at 8: what lies between them is neither, whatever its logits are."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(400, 2, generator=generator) + torch.tensor([8.0, 0.0]) * (torch.arange(400) % 2)[:, None]
    gaussians = vars(Mahalanobis.fit(near, torch.arange(400) % 2, 2))
    logits = torch.zeros(400, 2)
    rows = measure_batch(ICNOutput(logits, near[:, :, None, None]), torch.arange(400) % 2, "ce", DISTANCE, gaussians=gaussians)
    fitted = Thresholds.fit(rows, "val", "", DISTANCE, gaussians)
    check_entries({"thresholds": fitted.entry()}, "x.pth")
    read = read_thresholds(fitted.entry())
    features = torch.tensor([[0.0, 0.0], [8.0, 0.0], [4.0, 0.0]])
    said = Reader(["a", "b"], "ce", read)(torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 0.0]]), features, 1)
    assert [each.known for each in said] == [True, True, False]
    for name, value in (("mean", torch.zeros(3, dtype=torch.float64)), ("spread", gaussians["spread"].float()), ("means", 1)):
        with pytest.raises(ValueError, match="the entry 'thresholds' is damaged"):
            check_entries({"thresholds": {**fitted.entry(), "gaussians": {**gaussians, name: value}}}, "x.pth")
    with pytest.raises(ValueError, match="has thresholds of the score 'relative_mahalanobis'"):
        read_thresholds({name: value for name, value in fitted.entry().items() if name != "gaussians"})
