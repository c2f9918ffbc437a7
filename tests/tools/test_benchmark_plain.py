"""The plain transcription that the engine is measured against is the same network: same names, same numbers."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_flags, tiny_model

from models import ICN
from tools.benchmark.implementations.plain.models import PlainClassifier, build_model

VARIANTS: list[dict[str, Any]] = [
    {},
    {"pre_norm": True, "enc_layers": 2},
    {"position_embedding": "learned", "dec_layers": 3},
    {"lr_backbone": 0.0, "enc_layers": 0, "backbone": "resnet34"},
]


def plain_flags(**changes: Any) -> argparse.Namespace:
    return tiny_flags().replace(**{"backbone": "resnet18", "num_queries": 5, **changes})


def both(**changes: Any) -> tuple[PlainClassifier, ICN]:
    """The transcription and the model, with the same weights and batch norms that do something."""
    model = tiny_model(5, **{"backbone": "resnet18", **changes})
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("running_var", "weight")):
                buffer.uniform_(0.7, 1.3)
            else:
                buffer.normal_(0, 0.1)
    plain, _ = build_model(plain_flags(**changes))
    plain.load_state_dict(model.state_dict(), strict=True)
    return plain.eval(), model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of 96 x 128 pixels; the second is padded at the right and the bottom."""
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, :, 80:], mask[1, 70:] = True, True
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    return images.masked_fill(mask[:, None], 0.0), mask


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_features_and_maps_are_those_of_the_model(changes: dict[str, Any]) -> None:
    plain, model = both(**changes)
    images, mask = batch()
    for padding in (mask, torch.zeros_like(mask)):
        with torch.no_grad():
            outputs, memory, answers, weights, averages = plain(SimpleNamespace(tensors=images, mask=padding))
            expected = model(images, padding, attention="all")
        maps = expected.attention
        assert expected.logits.std() > 1e-3 and maps.std() > 1e-3
        torch.testing.assert_close(outputs["query_logits"], expected.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(memory, expected.features, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(weights.view(maps.shape), maps, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(averages, maps.mean(2).flatten(-2), atol=1e-4, rtol=1e-4)
        assert answers.shape[:3] == (len(maps), 2, 5)


@pytest.mark.parametrize("changes", VARIANTS)
def test_it_has_the_same_parameters_and_trains_the_same_ones(changes: dict[str, Any]) -> None:
    plain, model = both(**changes)
    assert list(plain.state_dict()) == list(model.state_dict())
    expected = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    assert [(name, parameter.requires_grad) for name, parameter in plain.named_parameters()] == expected


def test_gradients_are_the_same() -> None:
    plain, model = both(dropout=0.0)
    plain.train(), model.train()
    images, mask = batch()
    labels = torch.tensor([3, 1])
    torch.nn.functional.cross_entropy(plain(SimpleNamespace(tensors=images, mask=mask))[0]["query_logits"], labels).backward()
    torch.nn.functional.cross_entropy(model(images, mask).logits, labels).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(theirs.grad, ours.grad, atol=1e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


def test_every_cross_attention_runs_twice() -> None:
    """What makes it a fair picture of INTR: it does not save what INTR does not save."""
    plain, _ = both(dec_layers=3)
    calls = []
    for layer in plain.transformer.decoder.layers:
        layer.multihead_attn.register_forward_hook(lambda *_: calls.append(1))
    images, mask = batch()
    with torch.no_grad():
        plain(SimpleNamespace(tensors=images, mask=mask))
    assert len(calls) == 6


def test_a_backbone_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="--backbone convnext_tiny"):
        build_model(plain_flags(backbone="convnext_tiny"))
