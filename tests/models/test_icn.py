import copy

import pytest
import torch
from conftest import tiny_flags, tiny_model

from models import build_model


def test_batched_equals_single() -> None:
    model = tiny_model()
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        batch = model(images, attention="all")
        for index in range(3):
            single = model(images[index : index + 1], attention="all")
            torch.testing.assert_close(single.logits[0], batch.logits[index], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(single.attention[:, 0], batch.attention[:, index], atol=1e-6, rtol=1e-4)


def test_a_mask_without_padding_changes_nothing() -> None:
    model = tiny_model()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            model(images, torch.zeros(2, 64, 96, dtype=torch.bool)).logits, model(images).logits, atol=1e-5, rtol=1e-5
        )


def test_attention_on_request() -> None:
    model = tiny_model()
    images = torch.randn(2, 3, 64, 96)
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 60:] = True
    with torch.no_grad():
        nothing, everything = model(images, mask), model(images, mask, attention="all")
        assert nothing.attention is None
        torch.testing.assert_close(nothing.logits, everything.logits, atol=1e-5, rtol=1e-5)
        assert everything.attention.shape == (2, 2, 4, 3, 2, 3) and everything.features.shape == (2, 32, 2, 3)
        torch.testing.assert_close(everything.attention.sum((-2, -1)), torch.ones(2, 2, 4, 3))
        assert (everything.attention[:, 1, ..., 2] == 0).all()
        for layer, index in ((0, 0), (1, 1), (-1, 1), (-2, 0)):
            torch.testing.assert_close(model(images, mask, attention=layer).attention[0], everything.attention[index])


@pytest.mark.parametrize("layer", [2, -3, "last"])
def test_a_layer_that_does_not_exist(layer: object) -> None:
    with pytest.raises(ValueError, match="2, numbered 0 to 1"):
        tiny_model()(torch.randn(1, 3, 32, 32), attention=layer)


@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_of_a_logit_reach_the_returned_maps(layer: int) -> None:
    output = tiny_model()(torch.randn(2, 3, 64, 64), attention=layer)
    (gradient,) = torch.autograd.grad(output.logits[0, 1], output.attention)
    assert gradient.shape == output.attention.shape
    assert gradient[:, 0, :, 1].abs().sum() > 0 and (gradient[:, 1] == 0).all()


def test_gradients_of_the_maps_reach_the_parameters() -> None:
    model = tiny_model()
    model(torch.randn(2, 3, 64, 64), attention="all").attention.square().sum().backward()
    assert all(layer.multihead_attn.in_proj_weight.grad.abs().sum() > 0 for layer in model.transformer.decoder.layers)


def test_the_keys_and_sizes_of_the_seed() -> None:
    """452 tensors and 41.4 M parameters with ResNet-50, 6 + 6 layers and 100 classes."""
    defaults = dict(backbone="resnet50", hidden_dim=256, dim_feedforward=2048, nheads=8, enc_layers=6, dec_layers=6)
    args = tiny_flags().replace(**defaults, num_queries=100, backbone_norm="frozen")
    with torch.device("meta"):
        model = build_model(args)
    state = model.state_dict()
    assert len(state) == 452
    count = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for name, b in model.named_buffers() if name.endswith(("weight", "bias")))
    assert round((count + buffers) / 1e6, 1) == 41.4
    for key, shape in {
        "backbone.0.body.conv1.weight": (64, 3, 7, 7),
        "backbone.0.body.layer4.2.bn3.running_var": (2048,),
        "input_proj.weight": (256, 2048, 1, 1),
        "query_embed.weight": (100, 256),
        "presence_vector.weight": (1, 256),
        "transformer.encoder.layers.5.self_attn.in_proj_weight": (768, 256),
        "transformer.decoder.layers.0.multihead_attn.out_proj.bias": (256,),
        "transformer.decoder.layers.5.norm3.weight": (256,),
        "transformer.decoder.norm.bias": (256,),
    }.items():
        assert tuple(state[key].shape) == shape, key
    assert not any("num_batches_tracked" in key or "fc." in key for key in state)
    with torch.device("meta"):
        extra = set(build_model(args.replace(pre_norm=True)).state_dict()) - set(state)
    assert extra == {"transformer.encoder.norm.weight", "transformer.encoder.norm.bias"}


def test_stem_is_frozen_as_in_detr() -> None:
    frozen = {name.split(".")[3] for name, p in tiny_model(backbone="resnet18").named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    model = tiny_model(backbone="resnet18", lr_backbone=0.0)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in tiny_model(backbone_norm="batch").parameters())


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet10t"])
def test_checkpointing_changes_memory_and_nothing_else(backbone: str, norm: str) -> None:
    """Gradients, dropout and the counts of batch norms are those of a step without it, bit for bit."""
    model = tiny_model(4, backbone=backbone, backbone_norm=norm).train()
    other = copy.deepcopy(model)
    if (backbone, norm) == ("resnet10t", "batch"):
        with pytest.raises(ValueError, match="a timm model with learned batch norms"):
            other.set_grad_checkpointing()
        return
    model.requires_grad_(True)  # the stem, too
    other.requires_grad_(True).set_grad_checkpointing()
    held = []
    images = torch.randn(2, 3, 96, 64)
    for net in (model, other):
        sizes: list[int] = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):  # noqa: B023
            loss = net(images).logits.square().sum()
        loss.backward()
        held.append(sum(sizes))
    # Early versions of timm take the hint and keep everything on the way to features.
    assert held[1] < (0.6 if backbone == "resnet18" else 1.0) * held[0]
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (one.grad is None and two.grad is None) or torch.equal(one.grad, two.grad), name
    for (name, one), two in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
