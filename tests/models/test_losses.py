"""The losses of the classes: their values, the probabilities, and the bias that belongs to binary cross-entropy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_flags, tiny_model

from models import ParameterError, for_inference, load_checkpoint, load_finetune
from models.criterion import Criterion, mosaic_logits
from models.losses import class_loss
from models.saving import intr_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_torch_s_in_float32(smoothing: float, reduction: str) -> None:
    logits = torch.randn(5, 3)
    found = class_loss("ce", logits.bfloat16(), torch.tensor([0, 1, 2, 0, 1]), smoothing, reduction)
    log_p = logits.bfloat16().float().log_softmax(1)
    target = (1 - smoothing) * F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3) + smoothing / 3
    expected = getattr(-(target * log_p).sum(1), reduction)()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_losses_and_probabilities_are_written_once() -> None:
    """A softmax elsewhere is one over cells: of attention."""
    rooms = ("models", "util", "datasets", "attribution", "tools", "spaces")
    files = [*ROOT.glob("*.py"), *(f for room in rooms for f in (ROOT / room).rglob("*.py") if "benchmark" not in f.parts)]
    assert [f.name for f in files if "cross_entropy(" in f.read_text()] == ["losses.py"]
    assert {f.name for f in files if "softmax(" in f.read_text()} == {"losses.py", "attention.py", "heads.py"}


def test_binary_cross_entropy_by_hand() -> None:
    """Two images of four classes: the label's target is 1, that of the others 1/4; summed over classes, mean over images."""
    logits, labels = torch.tensor([[2.0, -1.0, 0.0, 0.5], [-3.0, 1.0, 4.0, -0.5]]), torch.tensor([0, 3])
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = [1 / (1 + math.exp(-x)) for x in row]
        target = [1.0 if index == label else 0.25 for index in range(4)]
        expected.append(-sum(t * math.log(q) + (1 - t) * math.log(1 - q) for t, q in zip(target, p, strict=True)))
    assert class_loss("bce", logits, labels).item() == pytest.approx(sum(expected) / 2)
    assert class_loss("bce", logits, labels, reduction="sum").item() == pytest.approx(sum(expected))
    smooth = expected[0] + (0.3 - 0.3 / 4) * logits[0, 0].item()  # the label's target is 1 - .3 + .3 / 4, the others' stay
    assert class_loss("bce", logits[:1], labels[:1], 0.3).item() == pytest.approx(smooth)


def test_gradients_start_as_those_of_cross_entropy() -> None:
    """At a probability of 1/C of every class the label's are equal, and absent classes have none."""
    labels = torch.tensor([0, 4, 2])
    found = {}
    for loss, bias in (("ce", 0.0), ("bce", -math.log(4))):
        logits = torch.full((3, 5), bias, requires_grad=True)
        class_loss(loss, logits, labels).backward()
        found[loss] = logits.grad
    of_label = F.one_hot(labels, 5).bool()
    torch.testing.assert_close(found["bce"][of_label], found["ce"][of_label])
    torch.testing.assert_close(found["bce"][~of_label], torch.zeros(12))


@pytest.mark.parametrize("decoder", ["detr", "additive", "average"])
def test_a_class_without_evidence_has_the_probability_of_chance(decoder: str) -> None:
    model = tiny_model(5, backbone="test_resnet", decoder=decoder, enc_layers=0, loss="bce")
    plain = tiny_model(5, backbone="test_resnet", decoder=decoder, enc_layers=0)
    assert list(model.state_dict()) == list(plain.state_dict())
    trained = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained - {"presence_vector.bias"}
    torch.nn.init.zeros_(model.presence_vector.weight)
    images = torch.randn(2, 3, 64, 64)
    for copy in (model, for_inference(model)):
        torch.testing.assert_close(copy.probabilities(copy(images).logits), torch.full((2, 5), 0.2))


@pytest.mark.parametrize("decoder", ["additive", "average"])
def test_the_map_sums_to_the_logit_less_the_bias(decoder: str) -> None:
    model = tiny_model(5, backbone="test_resnet", decoder=decoder, enc_layers=0, feature_stride=16, loss="bce")
    logits, maps = model.evidence(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(maps.sum((-2, -1)), logits + math.log(4), atol=1e-5, rtol=1e-4)
    p = model.probabilities(logits)
    torch.testing.assert_close(p / (1 - p), maps.sum((-2, -1)).exp() / 4, atol=1e-5, rtol=1e-4)  # the odds of chance are 1/4


def test_the_terms_have_the_loss_of_the_model() -> None:
    model = tiny_model(3, backbone="test_resnet", decoder="additive", enc_layers=0, feature_stride=16, loss="bce").train()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 1])
    output = model(images)
    torch.manual_seed(0)
    terms = Criterion(0.1, mosaic=0.5)(model, output, images, labels)
    torch.manual_seed(0)
    logits, targets = mosaic_logits(model, images, labels, 0.5)
    torch.testing.assert_close(terms["class"], class_loss("bce", output.logits, labels, 0.1))
    torch.testing.assert_close(terms["mosaic"], 0.5 * class_loss("bce", logits - math.log(2), targets, 0.1))


def saved(loss: str | None, classes: int = 3) -> dict:
    """A checkpoint, as `read_checkpoint` returns it, of the additive decoder; None: of a version that knew no other loss."""
    flags = {"backbone": "test_resnet", "decoder": "additive", "enc_layers": 0, "feature_stride": 16, "num_queries": classes}
    flags["backbone_norm"] = "frozen"
    model = tiny_model(classes, **flags | {"loss": loss or "ce"})
    args = {key: value for key, value in vars(tiny_flags().replace(**flags)).items() if key not in ("explicit", "loss")}
    state = {**model.state_dict(), "presence_vector.bias": torch.tensor([0.7 if loss != "bce" else -math.log(classes - 1)])}
    return {"model": state, "args": args | ({"loss": loss} if loss else {}), "normalisation": model.backbone[0].normalisation}


def test_a_checkpoint_says_its_loss() -> None:
    for loss in (None, "ce", "bce"):
        model, meta = load_checkpoint("x.pth", checkpoint=saved(loss))
        assert model.loss == meta.args["loss"] == (loss or "ce")
    with pytest.raises(ParameterError, match="ce contradicts x.pth, which has bce"):
        load_checkpoint("x.pth", checkpoint=saved("bce"), overrides={"loss": "ce"})
    with pytest.raises(ValueError, match="x.pth has flags that no model can have: loss 'mse' is not known: choose ce or bce"):
        load_checkpoint("x.pth", checkpoint={**(content := saved(None)), "args": content["args"] | {"loss": "mse"}})
    with pytest.raises(ParameterError, match="at least 2 classes"):
        tiny_model(1, backbone="test_resnet", loss="bce")
    meta.args |= {"decoder": "detr", "feature_stride": None}
    with pytest.raises(ValueError, match="no model with loss = bce"):
        intr_checkpoint(model, meta, meta.args)


@pytest.mark.parametrize(("before", "after", "bias"), [
    (None, "bce", -math.log(3)), ("bce", "bce", -math.log(3)), ("bce", "ce", 0.0), (None, "ce", 0.7),
])  # fmt: skip
def test_fine_tuning_with_another_loss(before: str | None, after: str, bias: float) -> None:
    """The bias belongs to the loss and to the number of classes: here 4 from 3."""
    content = saved(before)
    args = tiny_flags().replace(**content["args"] | {"num_queries": 4, "loss": after})
    model, report = load_finetune("x.pth", args, content)
    assert model.loss == after and model.presence_vector.bias.item() == pytest.approx(bias)
    assert ("bias of the logits" in report) == ("bce" in (before, after))
