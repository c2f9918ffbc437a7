"""Sizes and batches that a backbone refuses: one line that says what it takes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from models.architecture import ParameterError
from models.backbone import Backbone
from models.build_backbone import IMAGENET, build_backbone


@pytest.mark.parametrize(
    "name, options, size, message",
    [
        ("vit_tiny_patch16_224", {}, (96, 96), "96 x 96 pixels: squares that it takes (square): 224"),
        ("pit_ti_224", {}, (64, 96), "64 x 96 pixels: squares that it takes (square): 224"),
        ("test_maxvit", {}, (100, 133), "100 x 133 pixels: squares that it takes (square): 160, 320"),
        ("test_maxvit", {"window": 64}, (160, 160), "64 x 64 pixels: squares that it takes (square): 160, 320"),
    ],
)
def test_a_size_that_a_network_refuses(name: str, options: dict, size: tuple[int, int], message: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    backbone = build_backbone(name, **options).eval()
    state = torch.get_rng_state()
    with pytest.raises(ParameterError) as error:
        backbone(torch.zeros(2, 3, *size))
    assert str(error.value) == f"the backbone takes no images of {message}"
    assert error.value.parameter == ("window" if options else "image_size") and torch.equal(torch.get_rng_state(), state)


def on(body: nn.Module) -> Backbone:
    return Backbone(body, 3, IMAGENET, (), 1)


def test_a_batch_of_one_that_batch_norms_refuse_in_training() -> None:
    backbone = on(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))).train()
    with pytest.raises(ParameterError, match="cannot be trained on one image of 64 x 64 pixels: take 2 or more") as error:
        backbone(torch.zeros(1, 3, 64, 64))
    assert error.value.parameter == "batch_size" and backbone(torch.zeros(2, 3, 64, 64)).shape == (2, 3, 1, 1)
    assert backbone.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 1, 1)


def test_a_network_that_takes_no_size_gives_its_reason() -> None:
    with pytest.raises(ParameterError, match="64 x 64 pixels: .*expected input.* to have 5 channels.*; choose another one"):
        on(nn.Conv2d(5, 5, 3))(torch.zeros(1, 3, 64, 64))


def test_errors_of_other_causes_stay_what_they_are() -> None:
    class Failing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.device.type == "cpu":
                raise RuntimeError("out of memory")
            return images

    with pytest.raises(RuntimeError, match="out of memory"):
        on(Failing())(torch.zeros(1, 3, 64, 64))
