"""Folded norms change the time, not the numbers, the names or the gradients."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from conftest import tiny_model
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models import for_inference
from models.folding import NORMS, AbsorbedNorm, FoldedConv2d, bake_norms, fold_frozen_norms


def stirred(body: nn.Module) -> nn.Module:
    """Norms as after a training: no two channels alike."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in body.modules():
            if isinstance(module, NORMS):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return body


def resnet(norm: type[nn.Module]) -> nn.Module:
    net = torchvision.models.resnet18(norm_layer=norm)
    return nn.Sequential(*list(net.children())[:-2])


def timm_model(name: str, frozen: bool) -> nn.Module:
    body = timm.create_model(name, features_only=True, feature_cls="getter", out_indices=(3,))
    if not hasattr(body.model, "forward_intermediates"):
        pytest.skip(f"this version of timm gives no features of {name}")
    return freeze_batch_norm_2d(body) if frozen else body


def features(body: nn.Module, images: torch.Tensor) -> torch.Tensor:
    out = body(images)
    return out[0] if isinstance(out, list) else out


BODIES = {
    "resnet18": lambda frozen: resnet(FrozenBatchNorm2d if frozen else nn.BatchNorm2d),
    "resnet10t": lambda frozen: timm_model("resnet10t", frozen),
    "tf_efficientnet_lite0": lambda frozen: timm_model("tf_efficientnet_lite0", frozen),
    "densenet121": lambda frozen: timm_model("densenet121", frozen),  # norms before convolutions: few can be folded
}


@pytest.mark.parametrize("name", BODIES)
def test_folding_frozen_norms_keeps_numbers_names_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    plain = stirred(BODIES[name](True)).double().eval()
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert any(isinstance(module, FoldedConv2d) for module in folded.modules())
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [key for key, _ in folded.named_parameters()] == [key for key, _ in plain.named_parameters()]
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    outputs = [features(body, images) for body in (plain, folded)]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-10, rtol=1e-10)
    for output in outputs:
        output.square().sum().backward()
    for (key, one), two in zip(plain.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, atol=1e-8, rtol=1e-8, msg=key)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", BODIES)
def test_baked_norms_keep_the_numbers(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    plain = stirred(BODIES[name](frozen)).double().eval()
    baked = copy.deepcopy(plain)
    if frozen:
        fold_frozen_norms(baked)
    bake_norms(baked)
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    torch.testing.assert_close(features(baked, images), features(plain, images), atol=1e-10, rtol=1e-10)
    left = [module for module in baked.modules() if isinstance(module, (*NORMS, AbsorbedNorm, FoldedConv2d))]
    assert name == "densenet121" or not left


def test_every_norm_of_a_resnet_is_folded() -> None:
    body = resnet(FrozenBatchNorm2d)
    fold_frozen_norms(body)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in body.modules())
    assert sum(isinstance(module, FoldedConv2d) for module in body.modules()) == 20


def test_a_norm_whose_convolution_is_used_elsewhere_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 4, 3, bias=False), FrozenBatchNorm2d(4), FrozenBatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.one(x) + self.two(x)

    body = Twice()
    fold_frozen_norms(body)
    assert isinstance(body.one, FrozenBatchNorm2d) and type(body.conv) is nn.Conv2d


def test_folding_draws_nothing_and_leaves_the_mode() -> None:
    body = resnet(FrozenBatchNorm2d).train()
    state = torch.get_rng_state()
    fold_frozen_norms(body)
    assert torch.equal(torch.get_rng_state(), state) and body.training


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_the_copy_for_inference_gives_the_model_s_numbers(norm: str) -> None:
    model = tiny_model(4, backbone_norm=norm)
    stirred(model.backbone[0].body)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    fast = for_inference(model)
    assert model.training and not fast.training and not any(p.requires_grad for p in fast.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    images = torch.randn(2, 3, 96, 64)
    one, two = model.eval()(images, attention="all"), fast(images, attention="all")
    torch.testing.assert_close(two.logits, one.logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(two.attention, one.attention, atol=2e-5, rtol=1e-5)


def test_bf16_inference_is_close_and_its_maps_are_of_full_precision() -> None:
    model = tiny_model(4)
    fast = for_inference(model, torch.bfloat16)
    assert fast.input_proj.weight.dtype == torch.bfloat16 and fast.transformer.decoder.norm.weight.dtype == torch.float32
    images = torch.randn(2, 3, 96, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output = fast(images, attention=-1)
    exact = model(images, attention=-1)
    assert output.attention.dtype == torch.float32
    torch.testing.assert_close(output.attention.sum((-1, -2)), torch.ones(1, 2, 4, 4), atol=1e-6, rtol=0)
    pairs = torch.stack([output.attention.flatten(), exact.attention.flatten()])
    assert pairs.corrcoef()[0, 1] > 0.99
    torch.testing.assert_close(output.logits.float(), exact.logits, atol=0.1, rtol=0.1)
