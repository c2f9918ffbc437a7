"""The terms of the loss: their names, order, weights and sum; a further term is one function and one weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model

from models import Criterion
from models.criterion import TERMS, cross_entropy, locality_loss, mosaic_logits

ROOT = Path(__file__).parents[2]
IMAGES, LABELS = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_torch_s_in_float32(smoothing: float, reduction: str) -> None:
    logits = torch.randn(5, 3)
    found = cross_entropy(logits.bfloat16(), torch.tensor([0, 1, 2, 0, 1]), smoothing, reduction)
    log_p = logits.bfloat16().float().log_softmax(1)
    target = (1 - smoothing) * F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3) + smoothing / 3
    expected = getattr(-(target * log_p).sum(1), reduction)()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_cross_entropy_is_written_once() -> None:
    files = [
        *ROOT.glob("*.py"),
        *(f for room in ("models", "util", "datasets", "attribution") for f in (ROOT / room).rglob("*.py")),
    ]
    assert [f.name for f in files if "F.cross_entropy(" in f.read_text()] == ["criterion.py"]


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
