"""Several stages on one grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.build_backbone import build_backbone
from models.folding import bake_norms


@pytest.mark.parametrize("name, channels", [("resnet18", (128, 256, 512)), ("resnet10t", (128, 256, 512))])
def test_deeper_stages_beside_the_finest(name: str, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 96)
    fused = build_backbone(name, feature_stride=8, fuse=True, norm="batch").eval()
    assert fused.num_channels == sum(channels) and fused.stride == 8
    features = fused(images)
    assert features.shape == (2, sum(channels), 8, 12)
    for stride, part in zip((8, 16, 32), features.split(channels, 1), strict=True):
        alone = build_backbone(name, feature_stride=stride, norm="batch").eval()
        alone.load_state_dict({key: fused.state_dict()[key] for key in alone.state_dict()})
        torch.testing.assert_close(part, F.interpolate(alone(images), size=(8, 12), mode="bilinear"))


def test_the_last_stage_fuses_with_nothing() -> None:
    torch.manual_seed(0)
    one, other = (build_backbone("resnet18", fuse=fuse, norm="batch").eval() for fuse in (False, True))
    other.load_state_dict(one.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(one(images), other(images))
    assert one.num_channels == other.num_channels == 512


@pytest.mark.parametrize("window", [None, 32])
def test_fused_windows_baked_and_computed_again(window: int | None) -> None:
    """All that a backbone can do, together."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    backbone = build_backbone("resnet18", feature_stride=16, fuse=True, norm="frozen", window=window)
    expected = backbone.eval()(images)
    backbone.train().set_grad_checkpointing()
    torch.manual_seed(1)
    again = backbone(images)
    assert window or torch.allclose(again, expected, atol=1e-5)
    again.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    bake_norms(backbone.eval().body)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
