from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from models.architecture import ParameterError
from models.build_backbone import build_backbone, load_backbone_weights
from models.loading import read_state_dict


@pytest.mark.parametrize(
    "name, options, channels, stride",
    [
        ("resnet18", {}, 512, 32),
        ("resnet50", {}, 2048, 32),
        ("resnet50", {"dilation": True}, 2048, 16),
        ("resnet18", {"feature_stride": 16}, 256, 16),
        ("resnext50_32x4d", {"feature_stride": 8}, 512, 8),
        ("timm/resnet18", {}, 512, 32),
        ("tf_efficientnet_lite0", {"feature_stride": 16}, 112, 16),
        ("tf_efficientnet_lite0", {"dilation": True}, 320, 16),
        ("convnext_atto", {}, 320, 32),
        ("swin_tiny_patch4_window7_224", {"feature_stride": 16}, 384, 16),
        ("vit_tiny_patch16_224", {}, 192, 16),
    ],
)
def test_features_have_the_channels_and_the_stride(name: str, options: dict, channels: int, stride: int) -> None:
    backbone = build_backbone(name, **options).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 224, 224))
    assert features.shape == (1, channels, 224 // stride, 224 // stride) and backbone.num_channels == channels


def test_the_whole_network_is_run() -> None:
    """timm's default maps of a ViT are those of its last blocks: their position in that list is no depth."""
    assert len(build_backbone("vit_tiny_patch16_224").body.model.blocks) == 12


@pytest.mark.parametrize(
    "name, options, parameter, message",
    [
        ("resnet5O", {}, "backbone", "'resnet5O' is neither .*; similar: .*resnet50"),
        ("hf_hub:timm/ResNet18", {}, "backbone", "is neither .*; similar: .*resnet18"),
        ("resnet18.no_such_weights", {}, "backbone", "cannot give its features: Invalid pretrained tag"),
        ("vgg", {}, "backbone", "is neither"),
        ("resnet50", {"feature_stride": 12}, "feature_stride", "12 is not possible: resnet50 has .* stride 4, 8, 16, 32"),
        ("convnext_atto", {"feature_stride": 2}, "feature_stride", "2 is not possible: convnext_atto has .* stride 4, 8, 16, 32"),
        ("resnet50", {"feature_stride": 0}, "feature_stride", "0 is not possible: resnet50 has"),
        ("resnet18", {"dilation": True}, "dilation", "resnet18 cannot have it"),
        ("vit_tiny_patch16_224", {"dilation": True}, "backbone", "cannot give its features with dilation"),
        ("resnet18", {"norm": "layer"}, "backbone_norm", "'layer' is not known: choose frozen or batch"),
    ],
)
def test_what_cannot_be_built(name: str, options: dict, parameter: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as error:
        build_backbone(name, **options)
    assert error.value.parameter == parameter


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_weights_of_the_whole_classifier_are_taken_from_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = (torchvision.models.get_model(name) if name == "resnet18" else timm.create_model(name)).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "weights.pth")
    images = torch.randn(1, 3, 64, 64)
    for norm in ("frozen", "batch"):
        backbone = build_backbone(name, norm=norm).eval()
        load_backbone_weights(backbone, read_state_dict(tmp_path / "weights.pth"), "weights.pth")
        with torch.no_grad():
            if name == "resnet18":
                expected = torch.nn.Sequential(*list(whole.children())[:-2])(images)
            else:
                expected = whole.forward_intermediates(images, indices=1, intermediates_only=True)[-1]
            torch.testing.assert_close(backbone(images), expected, atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit() -> None:
    state = torchvision.models.resnet18().state_dict()
    with pytest.raises(ValueError, match="w.pth does not fit the backbone: .* tensors differ"):
        load_backbone_weights(build_backbone("resnet34"), state, "w.pth")


def test_weights_under_a_prefix_and_weights_that_are_not_finite() -> None:
    state = torchvision.models.resnet18().state_dict()
    for prefix in ("module.", "backbone.0.body.", "module._orig_mod."):
        backbone = build_backbone("resnet18")
        load_backbone_weights(
            backbone, {"input_proj.weight": torch.ones(1), **{prefix + key: state[key] for key in state}}, "w.pth"
        )
        assert torch.equal(backbone.body.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    state["layer1.0.conv1.weight"][0] = float("inf")
    with pytest.raises(ValueError, match=r"w.pth has values that are not finite numbers \(layer1.0.conv1.weight\)"):
        load_backbone_weights(build_backbone("resnet18"), state, "w.pth")


@pytest.mark.parametrize("content", [b"", b"no tensors here"])
def test_a_file_that_is_no_state_dict(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match="w.pth is (empty|a text file)"):
        read_state_dict(tmp_path / "w.pth")
    with pytest.raises(ValueError, match="nowhere.* does not exist"):
        read_state_dict(tmp_path / "nowhere.pth")


def test_frozen_norms_hold_still_in_training() -> None:
    for name in ("resnet18", "tf_efficientnet_lite0"):
        backbone = build_backbone(name).train()
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        backbone(torch.randn(2, 3, 64, 64))
        assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_timm_brings_its_normalisation() -> None:
    assert build_backbone("tf_efficientnet_lite0").normalisation == {"mean": [0.5] * 3, "std": [0.5] * 3}
