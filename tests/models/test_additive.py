"""The additive decoder: its map is its logit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flags import get_args_parser
from models import ICN, build_model, for_inference, load_finetune
from models.build import finetune_architecture, finetune_state
from models.loading import read_checkpoint
from util.cli import Flags, parse

WORDS = "--backbone resnet10t --backbone_norm batch --feature_stride 16 --hidden_dim 32 --nheads 4 --dim_feedforward 64"


def flags(kind: str, classes: int = 7, more: str = "") -> Flags:
    words = f"{WORDS} --decoder {kind} --num_queries {classes} --enc_layers 0 {more}".split()
    return parse(get_args_parser(), words)


def make(kind: str, classes: int = 7, more: str = "") -> ICN:
    torch.manual_seed(0)
    return build_model(flags(kind, classes, more)).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures, the second a padded one."""
    torch.manual_seed(1)
    padding_mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding_mask[1, :, 64:] = True
    return torch.randn(2, 3, 64, 96), padding_mask


@pytest.mark.parametrize("kind", ["additive", "none"])
@pytest.mark.parametrize("encoder", [0, 1])
def test_the_map_sums_to_the_logit(kind: str, encoder: int, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = make(kind, more=f"--enc_layers {encoder}")
    with torch.no_grad():
        model.presence_vector.bias.fill_(0.7)
        logits, maps = model.evidence(*batch)
        expected = model(*batch).logits
    assert maps.shape == (2, 7, 4, 6) and maps.dtype == torch.float32
    assert (logits - expected).abs().max() <= 1e-6 and logits.std() > 1e-2
    error = (maps.sum((-2, -1)) + 0.7 - logits).abs() / (logits - 0.7).abs()
    assert error.max() <= 1e-4
    assert (maps < 0).any() and (maps > 0).any()
    assert maps[1, :, :, 4:].abs().max() == 0


@pytest.mark.parametrize("kind", ["additive", "none"])
def test_some_classes_of_each_picture(kind: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = make(kind)
    classes = torch.tensor([[3, 0], [6, 6]])
    with torch.no_grad():
        every, some = model.evidence(*batch)[1], model.evidence(*batch, classes=classes)[1]
    torch.testing.assert_close(some, torch.stack([every[0, [3, 0]], every[1, [6, 6]]]))


def test_the_definition(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One class at one cell, by the formula."""
    model = make("additive")
    decoder = model.transformer.decoder
    image, c, p = batch[0][:1], 5, 11
    with torch.no_grad():
        maps = model.evidence(image)[1]
        memory = decoder.norm(model(image).features.flatten(2)[0].T)  # [S, D]
        key, value = decoder.key(memory), decoder.value(memory)
        total = 0.0
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            attention = (key[:, part] @ model.query_embed.weight[c, part] / 8**0.5).softmax(0)
            total += float(attention[p] * (value[p, part] @ model.presence_vector.weight[c, part]))
    assert maps[0, c].flatten()[p] == pytest.approx(total, abs=1e-6)


def test_a_class_more_changes_no_other(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """No class talks to another: the first 7 of 9 classes score as 7 alone."""
    few, many = make("additive", 7), make("additive", 9)
    state = {key: value[:7] if value.shape[:1] == (9,) else value for key, value in many.state_dict().items()}
    few.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(few(*batch).logits, many(*batch).logits[:, :7])


def test_classes_in_chunks(batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("additive")
    with torch.no_grad():
        whole = model(*batch).logits
        monkeypatch.setattr("models.additive.QUERIES_AT_ONCE", 3)
        torch.testing.assert_close(model(*batch).logits, whole)


def test_attention_on_request(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = make("additive")
    output, plain = model(*batch, attention=-1), model(*batch)
    assert output.attention.shape == (1, 2, 4, 7, 4, 6)
    torch.testing.assert_close(output.logits, plain.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.attention.sum((-2, -1)), torch.ones(1, 2, 4, 7))
    assert output.attention[:, 1, ..., 4:].abs().max() == 0
    assert (torch.autograd.grad(output.logits[0, 2], output.attention)[0] != 0).any()


def test_below_fp32(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = for_inference(make("additive"), torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, maps = model.evidence(*batch)
    sums = maps.sum((-2, -1)) + model.presence_vector.bias
    assert (sums - logits).abs().max() <= 2**-7 * maps.abs().sum((-2, -1)).max()


def test_refusals(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="logits of the detr decoder are not sums over cells.*additive or average"):
        make("detr").evidence(*batch)
    with pytest.raises(ValueError, match="the average decoder has no attention"):
        make("none")(*batch, attention=0)
    with pytest.raises(ValueError, match="num_heads 5 must divide hidden_dim 32"):
        make("additive", more="--nheads 5")


def test_from_a_detr_like_file(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Backbone, projection and queries are kept, the layers that are not there are dropped by name."""
    source = make("detr", 20, "--enc_layers 1 --dec_layers 1")
    model = make("additive", 7)
    state, report = finetune_state(source.state_dict(), model, 0.1, 0)
    model.load_state_dict(state)
    torch.testing.assert_close(model.query_embed.weight, source.query_embed.weight[:7])
    torch.testing.assert_close(model.input_proj.weight, source.input_proj.weight)
    assert "dropped transformer.decoder, transformer.encoder" in report
    assert "initialised presence_vector.weight, transformer.decoder" in report
    assert model(*batch).logits.isfinite().all()


def test_windows_may_come_later(tmp_path: Path) -> None:
    """Trained on whole pictures first, then in windows: the same weights, another reach."""
    source = make("additive")
    args = {key: value for key, value in vars(flags("additive", more="--dec_layers 0")).items() if key != "explicit"}
    torch.save({"model": source.state_dict(), "args": args}, tmp_path / "whole.pth")
    checkpoint = read_checkpoint(tmp_path / "whole.pth")
    architecture = finetune_architecture(checkpoint, "whole.pth", {"window": 32, "num_queries": 7})
    later = flags("additive", 7, "--window 32").replace(**architecture)
    model, report = load_finetune("whole.pth", later, checkpoint)
    assert model.backbone[0].window == 32 and "window" not in architecture and "initialised nothing" in report
    torch.testing.assert_close(model.state_dict(), source.state_dict())
    later = flags("additive", 7).replace(**finetune_architecture(checkpoint, "whole.pth", {}))
    assert load_finetune("whole.pth", later, checkpoint)[0].backbone[0].window is None
