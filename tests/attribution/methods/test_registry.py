"""The registry: every method runs where it applies, and costs what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model
from patches import CELL, batch, patch_model
from torch import Tensor

from attribution.methods.registry import METHODS, Method, Passes, methods_of
from models import ICN

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["detr", "additive", "none"]
QUICK = {
    "integrated_gradients_blur": {"steps": 4},
    "integrated_gradients_mean": {"steps": 4},
    "occlusion": {"window": CELL, "stride": CELL},
    "rise": {"n": 50},
}


def needed(method: Method, mask: Tensor) -> dict[str, Tensor]:
    masks = torch.zeros_like(mask)
    masks[:, :12, 4:20] = True
    given = {"siblings": torch.tensor([1, 3, 0]), "masks": masks, "removal_effects": masks * torch.rand(mask.shape)}
    return {name: given[name] for name in method.needs}


def test_names_are_keys_and_families_are_known() -> None:
    assert all(name == method.name for name, method in METHODS.items())
    assert {method.family for method in METHODS.values()} == {"own", "posthoc", "control"}


@pytest.mark.parametrize("kind", KINDS)
def test_which_of_the_model_s_own_maps_apply(kind: str) -> None:
    own = {method.name for method in methods_of(patch_model(kind=kind)) if method.family == "own"}
    expected = {
        "detr": {"attention", "rollout", "relevance", "contribution", "contribution_own_query"},
        "additive": {"attention", "rollout", "relevance", "additive", "additive_softmax", "additive_pixels"},
        "none": {"additive", "additive_softmax", "additive_pixels"},
    }
    assert own == expected[kind]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_map_is_finite_signed_as_it_says_and_nothing_on_padding(name: str, kind: str) -> None:
    method, model = METHODS[name], patch_model(kind=kind)
    if not method.applies(model):
        pytest.skip("does not apply")
    if not method.is_installed:
        pytest.skip(f"{method.requires} is not installed")
    images, classes, mask = batch()
    maps = method.call(model, images, classes, padding_mask=mask, **needed(method, mask), **QUICK.get(name, {}))
    assert maps.dtype == torch.float32 and not maps.requires_grad and maps.isfinite().all()
    assert maps.shape[1:] in ((4, 5), (32, 40))
    padding = mask if maps.shape[1] == 32 else mask[:, ::CELL, ::CELL]
    assert (maps[padding] == 0).all() and (maps.flatten(1).std(1) > 0).all()
    assert bool((maps < 0).any()) is method.signed


@pytest.mark.parametrize("name", METHODS)
def test_a_map_costs_the_passes_that_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, model = METHODS[name], patch_model(kind="additive" if name.startswith("additive") else "detr")
    if not method.is_installed:
        pytest.skip(f"{method.requires} is not installed")
    images, classes, mask = batch()
    forward, backward = [], []
    model.backbone[0].register_forward_hook(lambda _, args, __: forward.append(len(args[0])))
    grad = torch.autograd.grad

    def counted(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        backward.append(1 if isinstance(outputs, Tensor) else len(outputs))
        return grad(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    more = {key: value[:1] for key, value in needed(method, mask).items()}
    method.call(model, images[:1], classes[:1], **more)
    assert method.passes((32, 40)) == Passes(sum(forward), sum(backward))


def test_passes_read_as_words() -> None:
    assert str(Passes(1, 1)) == "1 forward + 1 backward" and str(Passes(1000)) == "1000 forward"
    assert str(METHODS["occlusion"].passes()) == "170 forward"  # 13 x 13 occluders at 224 pixels, and none


def test_unknown_and_impossible_methods_are_named() -> None:
    model = patch_model(kind="additive")
    assert [method.name for method in methods_of(model, ["rise", "additive"])] == ["rise", "additive"]
    with pytest.raises(ValueError, match="^lime: there is no such map; choose from attention, rollout"):
        methods_of(model, ["lime"])
    with pytest.raises(ValueError, match="^contribution is no map of the additive decoder; choose from attention"):
        methods_of(model, ["contribution"])


def test_maps_of_a_convolutional_backbone() -> None:
    model: ICN = tiny_model()
    torch.manual_seed(1)
    images, classes = torch.randn(2, 3, 64, 96), torch.tensor([2, 0])
    for name in ("attention", "rollout", "relevance", "contribution", "gradcam"):
        assert METHODS[name].call(model, images, classes).shape == (2, 2, 3)
