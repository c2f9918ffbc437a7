"""The registry of decoders: aliases, what each can do, the order of first draws, and a further decoder in a few lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_flags, tiny_model
from torch import Tensor

from models import DECODERS, Criterion, ParameterError, build_model, load_checkpoint
from models.additive import ClassWeights
from models.decoders import DecoderSpec, additive_decoders, canonical_decoder, find_decoder
from models.transformer import QueryDecoder

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Gated(QueryDecoder):
    """Scores the mean of the memory, multiplied by the class query."""

    def forward(self, query: Tensor, memory: Tensor, *_: object) -> tuple[Tensor, list[Tensor]]:
        return memory.mean(1, keepdim=True) * query, []

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        return (query * weight) @ memory.transpose(-2, -1) / memory.shape[1]


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> DecoderSpec:
    spec = DecoderSpec("gated", "gates", lambda args: Gated(), ClassWeights, "additive", is_additive=True)
    monkeypatch.setitem(DECODERS, "gated", spec)
    return spec


def test_a_further_decoder_is_built_trained_saved_and_loaded(gated: DecoderSpec, tmp_path: Path) -> None:
    args = tiny_flags("--decoder", "gated", "--enc_layers", 0, "--num_queries", 3, "--backbone_norm", "frozen")
    model = build_model(args)
    assert model.decoder_spec is gated and model.decoder_name == "gated" and model.num_decoder_layers == 0
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.query_embed.weight.clone()
    sum(Criterion(0.1, locality=0.5)(model, model(IMAGES), IMAGES, torch.tensor([0, 2])).values()).backward()
    optimizer.step()
    assert not torch.equal(before, model.query_embed.weight)
    torch.save({"model": model.state_dict(), "args": {**vars(args), "explicit": None}}, tmp_path / "gated.pth")
    loaded, meta = load_checkpoint(tmp_path / "gated.pth", overrides={"decoder": "gated"})
    assert meta.args["decoder"] == "gated"
    with torch.no_grad():
        logits, maps = loaded.eval().evidence(IMAGES)
        assert torch.equal(logits, model.eval()(IMAGES).logits) and maps.shape == (2, 3, 2, 2)
    torch.testing.assert_close(maps.sum((-2, -1)) + loaded.presence_vector.bias, logits)
    with pytest.raises(ValueError, match="the gated decoder has no attention"):
        model(IMAGES, attention=0)
    assert additive_decoders() == "additive or average or gated"


@pytest.mark.parametrize("name, layers, layered, additive", [
    ("detr", 2, True, False), ("additive", 1, False, True), ("average", 0, False, True), ("none", 0, False, True),
])  # fmt: skip
def test_what_the_decoders_can_do(name: str, layers: int, layered: bool, additive: bool) -> None:
    model = tiny_model(decoder=name)
    spec = model.decoder_spec
    assert model.num_decoder_layers == layers and (spec.is_layered, spec.is_additive) == (layered, additive)
    assert (
        model.decoder_name == canonical_decoder(name) == spec.name and model.query_embed.weight.requires_grad is spec.uses_queries
    )
    assert model(IMAGES).logits.shape == (2, 3)


def test_a_single_class_has_a_column_of_logits() -> None:
    for name in DECODERS:
        assert tiny_model(1, decoder=name)(IMAGES).logits.shape == (2, 1)


def test_the_alias_is_the_same_in_flags_and_files(tmp_path: Path) -> None:
    args = tiny_flags("--decoder", "none", "--enc_layers", 0, "--num_queries", 3, "--backbone_norm", "frozen")
    assert args.decoder == "average"
    model = build_model(args)
    for saved, explicit in (("none", "average"), ("average", "none"), ("none", "none")):
        torch.save(
            {"model": model.state_dict(), "args": {**vars(args), "decoder": saved, "explicit": None}}, tmp_path / "old.pth"
        )
        loaded, meta = load_checkpoint(tmp_path / "old.pth", overrides={"decoder": explicit})
        assert loaded.decoder_name == meta.args["decoder"] == "average"
    with pytest.raises(ParameterError, match="detr contradicts .*old.pth, which has average"):
        load_checkpoint(tmp_path / "old.pth", overrides={"decoder": "detr"})


def test_an_unknown_decoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match="'detrr' is not known: choose detr, additive, average, none"):
        find_decoder("detrr")


@pytest.mark.parametrize(
    "name, encoder, expected",
    [
        ("detr", 1, [-0.03529303, -0.05868846, -0.34864807, 0.00065338]),
        ("additive", 0, [0.02948952, 0.04093694, -1.30901468, 0.0067667]),
        ("additive", 1, [-0.00045666, 0.04093694, -1.84430218, 0.01832116]),
        ("average", 1, [-0.03529303, -0.00032291, -0.13346484, -0.02797689]),
    ],
)
def test_a_seed_keeps_its_weights(name: str, encoder: int, expected: list[float]) -> None:
    """The order in which tensors are drawn is part of the meaning of a seed: values of version 0.1."""
    words = f"--backbone resnet18 --backbone_norm frozen --decoder {name} --enc_layers {encoder} --num_queries 5"
    args = tiny_flags(*words.split())
    torch.manual_seed(0)
    state = build_model(args).state_dict()
    drawn = [key for key in state if key.startswith("transformer.") and key.endswith("bias") and state[key].any()]
    found = [float(state[key].flatten()[0]) for key in (drawn[0], drawn[-1], "query_embed.weight", "input_proj.bias")]
    assert found == pytest.approx(expected, abs=1e-7)
