"""The opponents: against values that follow from the model, and against what their papers promise."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from patches import CELL, SIZES, alone, batch, patch_model
from torch import Tensor, nn

from attribution.baselines import baseline_images
from attribution.methods.attention import additive
from attribution.methods.pixel_gradients import additive_pixels, contrast
from attribution.methods.posthoc import finercam, gradcam, integrated_gradients, occluders, occlusion, rise
from models import ICN, ICNOutput

pytestmark = pytest.mark.usefixtures("one_thread")

SIBLINGS = torch.tensor([1, 3, 4])
METHODS = {
    "gradcam": gradcam,
    "finercam": partial(finercam, siblings=SIBLINGS),
    "integrated_gradients": partial(integrated_gradients, steps=8),
    "occlusion": occlusion,
    "rise": partial(rise, n=40),
    "contrast": partial(contrast, siblings=SIBLINGS, steps=(3, 3)),
    "additive_pixels": partial(additive_pixels, siblings=SIBLINGS, steps=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_picture_alone_has_the_map_that_it_has_in_a_padded_batch(name: str) -> None:
    if name in ("integrated_gradients", "occlusion"):
        pytest.importorskip("captum")
    model, call = patch_model(kind="additive" if name == "additive_pixels" else "detr"), METHODS[name]
    images, classes, mask = batch()
    maps = call(model, images, classes, padding_mask=mask)
    assert maps.dtype == torch.float32 and not maps.requires_grad
    for index, (height, width) in enumerate(SIZES):
        if "siblings" in getattr(call, "keywords", {}):
            call = partial(METHODS[name], siblings=SIBLINGS[index : index + 1])
        single = call(model, *alone(index))[0]
        h, w = single.shape
        assert (h, w) in ((height, width), (height // CELL, width // CELL)) and single.abs().max() > 0
        torch.testing.assert_close(maps[index, :h, :w], single, rtol=1e-3, atol=1e-5 * float(single.abs().max()))
        assert (maps[index, h:] == 0).all() and (maps[index, :, w:] == 0).all()


def test_gradcam_of_a_linear_model_is_the_positive_part_of_its_sum() -> None:
    """Without an encoder the control is linear in the features: Grad-CAM is CAM, less the bias of the projection."""
    model = patch_model(encoder=0, kind="none")
    images, classes, mask = batch()
    cells = torch.tensor([h * w // CELL**2 for h, w in SIZES])[:, None, None]
    valid = ~mask[:, ::CELL, ::CELL]
    with torch.no_grad():
        bias = model.presence_vector.weight @ model.input_proj.bias  # [C]

    def linear(labels: Tensor) -> Tensor:
        return (additive(model, images, labels, padding_mask=mask) - bias[labels][:, None, None] / cells) * valid

    maps = gradcam(model, images, classes, padding_mask=mask)
    torch.testing.assert_close(maps, linear(classes).clamp(min=0), atol=1e-6, rtol=1e-4)
    maps = finercam(model, images, classes, siblings=SIBLINGS, padding_mask=mask)
    torch.testing.assert_close(maps, (linear(classes) - linear(SIBLINGS)).clamp(min=0), atol=1e-6, rtol=1e-4)
    assert (maps > 0).any()


@pytest.mark.parametrize("baseline", ["mean", "blur"])
def test_integrated_gradients_sum_to_the_change_of_the_logit(baseline: str) -> None:
    pytest.importorskip("captum")
    model = patch_model()
    image, label = alone(1)
    map_ = integrated_gradients(model, image, label, steps=50, baseline=baseline)
    with torch.no_grad():
        change = (model(image).logits - model(baseline_images(image, baseline)).logits)[0, int(label)]
    torch.testing.assert_close(map_.sum(), change, rtol=2e-2, atol=2e-2 * float(map_.abs().sum()))
    with pytest.raises(ValueError, match="no replacement 'black': mean or blur"):
        integrated_gradients(model, image, label, baseline="black")


def test_occlusion_is_what_the_logit_loses() -> None:
    pytest.importorskip("captum")
    model = patch_model()
    image, label = alone(2)
    map_ = occlusion(model, image, label, window=CELL, stride=CELL)[0]
    for top in range(0, 16, CELL):
        for left in range(0, 40, CELL):
            hidden = image.clone()
            hidden[..., top : top + CELL, left : left + CELL] = 0
            with torch.no_grad():
                lost = (model(image).logits - model(hidden).logits)[0, int(label)]
            torch.testing.assert_close(map_[top : top + CELL, left : left + CELL], lost.expand(CELL, CELL), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "expected"), [((224, 224), ([32, 32], [16, 16])), ((128, 64), ([19, 10], [9, 5]))])
def test_default_occluders_overlap_by_half(size: tuple[int, int], expected: tuple[list[int], list[int]]) -> None:
    assert occluders(size) == expected


@pytest.mark.parametrize("size", [(32, 96), (96, 32), (32, 320), (320, 32), (224, 373), (32, 1333), (1, 100), (7, 8), (1, 1)])
def test_default_occluders_fit_pictures_of_any_shape_and_leave_no_pixel_out(size: tuple[int, int]) -> None:
    for side, width, step in zip(size, *occluders(size), strict=True):
        assert 1 <= step <= width <= side


def test_occlusion_of_a_strip() -> None:
    pytest.importorskip("captum")
    maps = occlusion(patch_model(), torch.randn(1, 3, 2 * CELL, 20 * CELL), torch.tensor([0]))
    assert maps.shape == (1, 2 * CELL, 20 * CELL) and (maps != 0).all()


@pytest.mark.parametrize(
    ("window", "stride", "wrong"), [(41, None, "window 41"), (0, None, "window 0"), (8, 9, "stride 9"), (8, 0, "stride 0")]
)
def test_occluders_that_leave_pixels_out_are_refused(window: int, stride: int | None, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong} must be from 1 to"):
        occluders((40, 64), window, stride)


@pytest.mark.parametrize("method", [integrated_gradients, occlusion])
def test_missing_captum_is_named_with_the_command(method: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ValueError, match=r"needs captum, which is not installed: pip install 'captum>=0.9'"):
        method(patch_model(), *alone(0))


class Window(nn.Module):
    """Two classes; the probability of the first is the brightness of one square of a white picture, at most 1/2."""

    loss, probabilities = "ce", ICN.probabilities

    def __init__(self, place: tuple[slice, slice] | None) -> None:
        super().__init__()
        self.place = place
        self.most = self.seen = 0

    def forward(self, images: Tensor) -> ICNOutput:
        self.most, self.seen = max(self.most, len(images)), self.seen + len(images)
        share = torch.full((len(images),), 0.5)
        if self.place is not None:
            share = images[:, 0][:, self.place[0], self.place[1]].mean((1, 2)) / 2
        share = share.clamp(1e-6, 1 - 1e-6)
        return ICNOutput(torch.stack([share.log(), (1 - share).log()], 1), images)


WHITE = torch.ones(1, 3, 42, 56)
FIRST = torch.zeros(1, dtype=torch.long)


def test_rise_finds_the_only_thing_that_matters() -> None:
    model = Window((slice(30, 34), slice(10, 14)))
    map_ = rise(model, WHITE, FIRST, n=2000, cells=7, at_once=64)[0]
    row, column = divmod(int(map_.argmax()), 56)
    assert 28 <= row < 36 and 8 <= column < 16
    # E[M f] / p: p + var / p where the mask is the score's, p far from it, by half the brightness.
    far = map_[:20, 30:].mean()
    torch.testing.assert_close(far, torch.tensor(0.25), atol=0.02, rtol=0)
    assert map_.max() > 1.3 * far


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rise_of_a_constant_score_is_that_score(p: float) -> None:
    map_ = rise(Window(None), WHITE, FIRST, n=1500, p=p, at_once=100)
    torch.testing.assert_close(map_.mean(), torch.tensor(0.5), atol=0.02, rtol=0)
    assert (map_ - 0.5).abs().max() < 0.25 * (0.1 / p) ** 0.5


def test_rise_never_holds_more_masks_than_it_was_told() -> None:
    model = Window((slice(0, 8), slice(0, 8)))
    images = WHITE.expand(2, -1, -1, -1)
    at_once = rise(model, images, FIRST.expand(2), n=70, at_once=16)
    assert model.most == 16 and model.seen == 140
    torch.testing.assert_close(rise(model, images, FIRST.expand(2), n=70, at_once=70), at_once)
    assert torch.equal(at_once[0], at_once[1])
    assert not torch.allclose(rise(model, images, FIRST.expand(2), n=70, seed=1), at_once)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"cells": 0}, {"p": 0.0}, {"p": 1.0}])
def test_rise_refuses_what_makes_no_masks(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="RISE needs"):
        rise(Window(None), WHITE, FIRST, **wrong)
