"""The terms of the loss: their names, order, weights and sum; a further term is one function and one weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model

from models import Criterion
from models.criterion import TERMS, locality_loss, mosaic_logits

ROOT = Path(__file__).parents[2]
IMAGES, LABELS = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])


def test_terms_are_weighted_and_summed_in_order() -> None:
    model = tiny_model(decoder="additive", enc_layers=0, feature_stride=16).train()
    criterion = Criterion(0.1, locality=0.3, mosaic=0.5)
    assert criterion.names == ("class", "mosaic", "locality")
    output = model(IMAGES)
    torch.manual_seed(0)
    terms = criterion(model, output, IMAGES, LABELS)
    after = torch.rand(1)
    torch.manual_seed(0)
    expected = {"class": F.cross_entropy(output.logits, LABELS, label_smoothing=0.1)}
    expected["mosaic"] = 0.5 * F.cross_entropy(*mosaic_logits(model, IMAGES, LABELS, 0.5), label_smoothing=0.1)
    expected["locality"] = 0.3 * locality_loss(model, IMAGES, model.evidence_of(output.features))
    assert torch.equal(after, torch.rand(1))
    assert list(terms) == list(criterion.names) and all(torch.equal(terms[name], expected[name]) for name in terms)
    assert torch.equal(sum(terms.values()), expected["class"] + expected["mosaic"] + expected["locality"])


def test_terms_of_no_weight_cost_nothing() -> None:
    model = tiny_model()  # has no evidence
    criterion = Criterion(mosaic=0.0, locality=0)
    assert criterion.names == ("class",)
    output = model(IMAGES)
    state = torch.get_rng_state()
    assert list(criterion(model, output, IMAGES, LABELS)) == ["class"] and torch.equal(state, torch.get_rng_state())


def test_a_further_term_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, "small_logits", lambda criterion, model, output, images, labels: output.logits.square().mean())
    model = tiny_model()
    terms = Criterion(small_logits=2.0)(model, output := model(IMAGES), IMAGES, LABELS)
    torch.testing.assert_close(terms["small_logits"], 2 * output.logits.square().mean())
    with pytest.raises(AssertionError, match="large_logits"):
        Criterion(large_logits=1.0)
