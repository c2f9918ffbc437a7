"""Sums of losses and hits."""

from __future__ import annotations

import pytest
import torch

from util.metrics import Sums, format_stats

CPU = torch.device("cpu")
LOGITS = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
LABELS = torch.tensor([0, 1, 1])


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_are_those_of_all_images_and_the_loss_is_the_sum_of_its_terms() -> None:
    sums = Sums(CPU, 2, ["class", "mosaic"])
    sums.add(LOGITS, LABELS, losses(mosaic=1.5, **{"class": 6.0}))
    sums.add(LOGITS[:1], LABELS[:1], losses(mosaic=0.5, **{"class": 2.0}))
    means = sums.finite_means()
    assert means == {"loss": 2.5, "acc1": 75.0, "acc5": None, "loss_class": 2.0, "loss_mosaic": 0.5}
    assert format_stats(means).startswith("loss 2.5000 (class 2.0000, mosaic 0.5000)  acc@1 75.00 %  acc@5 n/a")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_is_named(value: float) -> None:
    sums = Sums(CPU, 2, ["class", "mosaic", "locality"])
    sums.add(LOGITS, LABELS, losses(mosaic=0.5, locality=0.5, **{"class": 2.0}))
    sums.finite_means()
    sums.add(LOGITS, LABELS, losses(mosaic=value, locality=0.5, **{"class": 2.0}))
    with pytest.raises(FloatingPointError, match=rf"^the loss is {value} \(term mosaic\) by step 7$"):
        sums.finite_means(" by step 7")


def test_an_image_with_a_logit_that_is_not_finite_is_no_hit() -> None:
    logits = torch.eye(6)[:3] * 5
    logits[1, 5], logits[2, 0] = torch.nan, torch.inf
    sums = Sums(CPU, 6)
    sums.add(logits, torch.tensor([0, 1, 0]), losses(**{"class": 1.0}))
    assert sums.means()["acc1"] == sums.means()["acc5"] == pytest.approx(100 / 3)


def test_saved_sums_are_restored_by_the_names_of_their_terms() -> None:
    sums = Sums(CPU, 2, ["class", "mosaic"])
    sums.restore(torch.tensor([8.0, 3, 3, 2, 5, 1], dtype=torch.float64), 4, ["mosaic", "class", "gone"])
    assert sums.means() == {"loss": 2.0, "acc1": 75.0, "acc5": None, "loss_class": 1.25, "loss_mosaic": 0.5}


def test_sums_of_an_earlier_version_have_no_terms() -> None:
    sums = Sums(CPU, 2, ["class", "mosaic"])
    sums.restore(torch.tensor([8.0, 3, 3], dtype=torch.float64), 4, ["class"])
    assert sums.means() == {"loss": 2.0, "acc1": 75.0, "acc5": None, "loss_class": 2.0, "loss_mosaic": 0.0}
