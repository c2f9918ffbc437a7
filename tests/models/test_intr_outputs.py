"""Logits and attention maps that INTR's own code gave for small models on a padded batch (commit 69b8a69 of its repository).

tests/fixtures/intr_outputs.pt holds outputs only; weights and images are made anew from the names of the tensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from conftest import tiny_model


def noise(name: str, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers that are a function of the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(state: dict[str, torch.Tensor]) -> None:
    """Give every tensor of a model numbers of a sensible size."""
    with torch.no_grad():
        for name, tensor in state.items():
            values = noise(name, tensor.shape)
            if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                values = 1 + 0.2 * values.tanh()
            elif tensor.dim() > 1 and "query_embed" not in name:
                values = values * (1.5 / tensor[0].numel()) ** 0.5
            elif tensor.dim() == 1:
                values = 0.2 * values
            tensor.copy_(values)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images, the second of them padded: float `[2, 3, 128, 160]` and the bool mask `[2, 128, 160]`."""
    mask = torch.zeros(2, 128, 160, dtype=torch.bool)
    mask[1, :, 100:], mask[1, 90:] = True, True
    return noise("images", (2, 3, 128, 160)).masked_fill(mask[:, None], 0.0), mask


FIXTURE = Path(__file__).parents[1] / "fixtures" / "intr_outputs.pt"


@pytest.mark.parametrize("norm", ["post_norm", "pre_norm"])
def test_the_numbers_are_those_of_intr(norm: str) -> None:
    expected = torch.load(FIXTURE, weights_only=True)[norm]
    model = tiny_model(5, backbone="resnet18", enc_layers=2, pre_norm=norm == "pre_norm")
    fill(model.state_dict())
    images, mask = inputs()
    with torch.no_grad():
        output = model(images, mask, attention="all")
        fused = model(images, mask)
    maps = output.attention.flatten(-2)  # [L, B, heads, C, h*w]
    assert expected["logits"].std() > 0.1 and expected["attention"].std() > 0.01
    torch.testing.assert_close(output.logits, expected["logits"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused.logits, expected["logits"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps, expected["attention"], atol=3e-5, rtol=1e-5)
    if norm == "post_norm":  # with pre-norm INTR's average is that of another tensor
        torch.testing.assert_close(maps.mean(2), expected["average"], atol=3e-5, rtol=1e-5)
