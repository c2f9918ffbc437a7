from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import nn

from util.optimizer import make_optimizer, restore_optimizer

RESNET = "backbone.0.body."


def options(model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, Any]:
    """The option `key` of each trained parameter, by name."""
    values = {id(parameter): group[key] for group in optimizer.param_groups for parameter in group["params"]}
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(values) == len(names)
    return {name: values[id(parameter)] for name, parameter in names.items()}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """An update on random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_default_is_intr_two_groups_in_its_order() -> None:
    model = tiny_model(position_embedding="learned")
    optimizer = make_optimizer(model, 3e-3, 2e-4, 0.1)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for group, inside, lr in zip(optimizer.param_groups, (False, True), (3e-3, 2e-4), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for name, p in trained if ("backbone" in name) == inside]
        assert group["lr"] == group["base_lr"] == lr and group["weight_decay"] == 0.1
    assert [group["name"] for group in optimizer.param_groups] == ["rest", "backbone"]


@pytest.mark.parametrize("fused", [False, True])
def test_one_step_on_a_known_gradient(fused: bool) -> None:
    """The first step of Adam is the rate, whatever the gradient; the decay is decoupled: rate * weight decay * weight."""
    model = tiny_model(backbone="resnet18", backbone_norm="batch", feature_stride=16)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, 1e-2, 1e-3, 0.5, norm_decay=False, layer_decay=0.5, fused=fused)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -7.0)
    optimizer.step()
    expected = {
        "presence_vector.weight": (1e-2, 0.5),
        "presence_vector.bias": (1e-2, 0.0),
        "query_embed.weight": (1e-2, 0.0),
        "input_proj.weight": (1e-2, 0.5),
        "transformer.decoder.layers.0.norm1.weight": (1e-2, 0.0),
        "transformer.decoder.layers.0.multihead_attn.in_proj_weight": (1e-2, 0.5),
        "transformer.decoder.layers.0.multihead_attn.in_proj_bias": (1e-2, 0.0),
        f"{RESNET}layer3.1.conv2.weight": (1e-3, 0.5),
        f"{RESNET}layer3.1.bn2.weight": (1e-3, 0.0),
        f"{RESNET}layer2.0.downsample.0.weight": (1e-3 / 2, 0.5),
        f"{RESNET}layer1.0.conv1.weight": (1e-3 / 4, 0.5),
        f"{RESNET}conv1.weight": (1e-3 / 8, 0.5),
        f"{RESNET}bn1.bias": (1e-3 / 8, 0.0),
    }
    after = dict(model.named_parameters())
    for name, (rate, decay) in expected.items():
        torch.testing.assert_close(after[name].detach(), before[name] * (1 - rate * decay) + rate, rtol=1e-6, atol=1e-7)


def test_what_does_not_decay() -> None:
    model = tiny_model(position_embedding="learned", backbone_norm="batch")
    assert set(options(model, make_optimizer(model, 1, 1, 0.3), "weight_decay").values()) == {0.3}
    decay = options(model, make_optimizer(model, 1, 1, 0.3, norm_decay=False), "weight_decay")
    embeddings = {"query_embed.weight", "backbone.1.row_embed.weight", "backbone.1.col_embed.weight"}
    for name, parameter in model.named_parameters():
        assert decay[name] == (0.0 if parameter.dim() == 1 or name in embeddings else 0.3), name


def test_a_timm_backbone_says_what_else_does_not_decay() -> None:
    model = tiny_model(backbone="vit_tiny_patch16_224", feature_stride=None)
    decay = options(model, make_optimizer(model, 1, 1, 0.3, norm_decay=False), "weight_decay")
    body = "backbone.0.body.model."
    assert decay[f"{body}pos_embed"] == decay[f"{body}cls_token"] == 0 and decay[f"{body}blocks.0.attn.qkv.weight"] == 0.3


@pytest.mark.parametrize(
    "backbone, stride, exponents",
    [
        ("resnet18", 16, {"layer3.1.bn2.bias": 0, "layer2.0.conv1.weight": 1, "layer1.0.conv1.weight": 2, "conv1.weight": 3}),
        ("timm/resnet18", None, {"model.layer4.0.conv1.weight": 0, "model.layer1.1.bn2.weight": 3, "model.bn1.weight": 4}),
        (
            "convnext_atto",
            None,
            {"model.stages.3.downsample.0.bias": 0, "model.stages.0.blocks.0.norm.bias": 3, "model.stem.1.bias": 4},
        ),
        (
            "tf_efficientnet_lite0",
            16,
            {"model.blocks.4.0.conv_pw.weight": 0, "model.blocks.0.0.conv_pw.weight": 4, "model.conv_stem.weight": 5},
        ),
        ("vit_tiny_patch16_224", None, {"model.blocks.11.norm1.bias": 0, "model.blocks.0.norm1.bias": 11, "model.pos_embed": 12}),
    ],
)
def test_layer_decay_goes_down_stage_by_stage(backbone: str, stride: int | None, exponents: dict[str, int]) -> None:
    model = tiny_model(backbone=backbone, feature_stride=stride, backbone_norm="batch", position_embedding="learned")
    optimizer = make_optimizer(model, 1e-2, 1e-3, 0.1, layer_decay=0.7)
    rates = options(model, optimizer, "lr")
    assert options(model, optimizer, "base_lr") == rates
    for name, exponent in exponents.items():
        assert rates[RESNET + name] == pytest.approx(1e-3 * 0.7**exponent), name
    assert min(rates.values()) == pytest.approx(1e-3 * 0.7 ** max(exponents.values()))
    assert rates["backbone.1.row_embed.weight"] == 1e-3
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1e-2}
    assert [group["name"] for group in optimizer.param_groups[:2]] == ["rest", "backbone"]


def test_a_frozen_stem_is_in_no_group_but_counts_as_a_stage() -> None:
    model = tiny_model(backbone="resnet18")
    rates = options(model, make_optimizer(model, 1, 1, 0, layer_decay=0.5), "lr")
    assert rates[f"{RESNET}layer2.0.conv1.weight"] == 0.25 and f"{RESNET}layer1.0.conv1.weight" not in rates
    frozen = make_optimizer(tiny_model(lr_backbone=0.0), 1, 0, 0.1, norm_decay=False, layer_decay=0.5)
    assert [group["name"] for group in frozen.param_groups] == ["rest", "backbone", "rest without decay"]
    assert not frozen.param_groups[1]["params"]


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.1, float("nan")])
def test_a_layer_decay_that_is_no_factor_is_refused(layer_decay: float) -> None:
    with pytest.raises(ValueError, match=f"--layer_decay {layer_decay} must be above 0 and at most 1"):
        make_optimizer(tiny_model(), 1, 1, 0, layer_decay=layer_decay)


def test_a_backbone_without_stages_is_refused() -> None:
    model = tiny_model()
    model.backbone[0].body = nn.Module()
    model.backbone[0].body.model = nn.Conv2d(3, 8, 1)
    with pytest.raises(ValueError, match="--layer_decay: timm does not know the stages of Conv2d: leave the flag out"):
        make_optimizer(model, 1, 1, 0, layer_decay=0.5)
    assert make_optimizer(model, 1, 1, 0)


@pytest.mark.parametrize("refined", [{}, {"norm_decay": False}, {"norm_decay": False, "layer_decay": 0.7, "fused": True}])
def test_resumed_equals_uninterrupted(refined: dict[str, Any], tmp_path: Path) -> None:
    whole = tiny_model(feature_stride=16)
    optimizer = make_optimizer(whole, 1e-3, 1e-4, 0.1, **refined)
    step(whole, optimizer, 1)
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pth")
    step(whole, optimizer, 2)

    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    resumed = tiny_model(seed=1, feature_stride=16)
    resumed.load_state_dict(saved["model"])
    restored = make_optimizer(resumed, 1e-3, 1e-4, 0.1, **refined)
    restore_optimizer(restored, saved["optimizer"])
    step(resumed, restored, 2)
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name)), name


def test_a_state_is_restored_under_other_rates_and_options() -> None:
    model = tiny_model(backbone="resnet18", feature_stride=16)
    saved = make_optimizer(model, 1e-3, 1e-4, 0.1, norm_decay=False, layer_decay=0.5)
    step(model, saved, 1)
    state = copy.deepcopy(saved.state_dict())
    for group in state["param_groups"]:  # as files have it that were written before groups had names
        del group["name"], group["base_lr"]
    restored = make_optimizer(model, 5e-3, 5e-4, 0.2, norm_decay=False, layer_decay=0.7, fused=True)
    restore_optimizer(restored, state)
    rates = options(model, restored, "base_lr")
    assert rates["input_proj.weight"] == 5e-3 and rates[f"{RESNET}layer2.0.conv1.weight"] == pytest.approx(5e-4 * 0.7)
    assert options(model, restored, "weight_decay")["input_proj.weight"] == 0.2
    assert all(group["fused"] is True and "name" in group for group in restored.param_groups)
    moments = restored.state[model.input_proj.weight]
    assert torch.equal(moments["exp_avg"], saved.state[model.input_proj.weight]["exp_avg"]) and moments["step"] == 1
    step(model, restored, 2)


@pytest.mark.parametrize("refined", [{"norm_decay": False}, {"layer_decay": 0.5}])
def test_a_state_of_other_groups_is_refused_in_one_line(refined: dict[str, Any]) -> None:
    model = tiny_model(feature_stride=16)
    saved, other = make_optimizer(model, 1e-3, 1e-4, 0.1, **refined), make_optimizer(model, 1e-3, 1e-4, 0.1)
    step(model, saved, 1)
    with pytest.raises(
        ValueError, match=r"optimizer state .* does not fit \(its groups hold \[.*\] parameters, those of this"
    ) as raised:
        restore_optimizer(other, saved.state_dict())
    assert "\n" not in str(raised.value) and not other.state


def test_a_state_of_other_shapes_or_of_no_shape_at_all_is_refused() -> None:
    model, wider = tiny_model(feature_stride=16), tiny_model(dim_feedforward=96, feature_stride=16)
    saved = make_optimizer(wider, 1e-3, 1e-4, 0.1)
    step(wider, saved, 1)
    optimizer = make_optimizer(model, 1e-3, 1e-4, 0.1)
    with pytest.raises(ValueError, match=r"does not fit \(exp_avg is of a parameter \[96, 32\] where \[64, 32\] is trained\)"):
        restore_optimizer(optimizer, saved.state_dict())
    for damaged in ({}, {"state": {}}, {"state": {}, "param_groups": [3, 4]}, [], {"state": [], "param_groups": None}):
        with pytest.raises(ValueError, match="the optimizer state of the checkpoint does not fit"):
            restore_optimizer(optimizer, damaged)
    assert not optimizer.state


def test_moments_in_another_memory_order_train_to_the_same_weights() -> None:
    """INTR's files hold contiguous moments; the parameters of a convolution are channels_last."""
    models = [tiny_model(feature_stride=16).to(memory_format=torch.channels_last) for _ in range(2)]
    optimizers = [make_optimizer(model, 1e-3, 1e-4, 0.1, fused=True) for model in models]
    step(models[0], optimizers[0], 1)
    models[1].load_state_dict(models[0].state_dict())
    saved = copy.deepcopy(optimizers[0].state_dict())
    for entries in saved["state"].values():
        entries |= {name: value.contiguous() for name, value in entries.items()}
    restore_optimizer(optimizers[1], saved)
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, 2)
    for name, parameter in models[0].named_parameters():
        assert torch.equal(parameter, models[1].get_parameter(name)), name


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("damage", ["one", "short", "nan", "text", "sparse"])
def test_a_damaged_moment_is_refused(name: str, damage: str) -> None:
    model = tiny_model(feature_stride=16)
    optimizer = make_optimizer(model, 1e-3, 1e-4, 0.1, fused=True)
    step(model, optimizer, 1)
    state = copy.deepcopy(optimizer.state_dict())
    moment = state["state"][3][name]
    state["state"][3][name] = {
        "one": torch.zeros(1),
        "short": moment.flatten()[:-8],
        "nan": torch.full_like(moment, torch.nan),
        "text": "moment",
        "sparse": moment.to_sparse(),
    }[damage]
    restored = make_optimizer(model, 1e-3, 1e-4, 0.1, fused=True)
    with pytest.raises(ValueError, match=f"the optimizer state of the checkpoint does not fit .{name} "):
        restore_optimizer(restored, state)
    assert not restored.state


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("step", torch.zeros(5), "no number of steps"),
        ("step", "x", "no number of steps"),
        ("step", torch.tensor(float("nan")), "no number of steps"),
        ("exp_avg_sq", torch.full((2, 3), -1.0), "no moment has"),
        ("exp_avg_sq", torch.zeros(1, 1), r"\[1, 1\] where \[2, 3\]"),
        ("exp_avg", torch.zeros(2, 3, dtype=torch.int64), "no moment has"),
        ("exp_avg", None, "is of a parameter"),
    ],
)
def test_moments_that_no_parameter_has(name: str, value: object, message: str) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, 3))])
    moments = {"step": torch.tensor(2.0), "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    groups = [{"params": [0]}]
    restore_optimizer(optimizer, {"state": {0: moments}, "param_groups": groups})
    restore_optimizer(optimizer, {"state": {0: {**moments, "step": 2}}, "param_groups": groups})  # as earlier versions of torch
    with pytest.raises(ValueError, match=message):
        restore_optimizer(optimizer, {"state": {0: {**moments, name: value}}, "param_groups": groups})
    assert next(iter(optimizer.state.values()))["step"] == 2
