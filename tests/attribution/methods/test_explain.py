"""`attribution.explain`, the one call that makes maps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from patches import CLASSES, batch, patch_model

import attribution
from attribution import METHODS, explain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["detr", "additive", "average"])
def test_default_is_the_map_of_the_decoder_of_the_predicted_class(kind: str) -> None:
    model = patch_model(kind=kind)
    images, _, mask = batch()
    with torch.no_grad():
        predicted = model(images, mask).logits.argmax(1)
    maps = explain(model, images, padding_mask=mask)
    expected = METHODS[model.decoder_spec.default_map].call(model, images, predicted, padding_mask=mask)
    assert torch.equal(maps, expected) and not maps.requires_grad and maps.shape == (3, 4, 5)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_needs_no_ground_truth_explains(name: str) -> None:
    method = METHODS[name]
    kind = "detr" if method.applies(patch_model()) else "additive"
    if not method.is_installed:
        pytest.skip(f"{method.requires} is not installed")
    images, classes, mask = batch()
    if method.knows_ground_truth:
        with pytest.raises(ValueError, match=f"{name} is a map of the ground truth") as error:
            explain(patch_model(kind=kind), images, classes, name)
        assert "oracle" not in str(error.value).partition("choose from")[2], "only what is possible is suggested"
        return
    maps = explain(patch_model(kind=kind), images, classes, name, mask, **dict.fromkeys(method.quick, 3))
    assert maps.dtype == torch.float32 and maps.isfinite().all() and len(maps) == 3


def test_contrast_of_an_additive_decoder_sums_to_the_difference_of_the_logits() -> None:
    model = patch_model(kind="additive")
    images, _, mask = batch()
    with torch.no_grad():
        logits = model(images, mask).logits
    maps = explain(model, images, 2, padding_mask=mask, against=torch.tensor([0, 1, 4]))
    torch.testing.assert_close(maps.sum((1, 2)), logits[:, 2] - logits[[0, 1, 2], [0, 1, 4]], atol=1e-4, rtol=1e-4)


def test_a_method_of_contrasts_compares_with_the_most_probable_other_class() -> None:
    model = patch_model()
    images, classes, mask = batch()
    with torch.no_grad():
        order = model(images, mask).logits.argsort(1, descending=True)
    for label in range(CLASSES):
        others = torch.tensor([next(c for c in row if c != label) for row in order.tolist()])
        maps = explain(model, images, label, "finercam", mask)
        assert torch.equal(maps, explain(model, images, label, "finercam", mask, against=others))


def test_what_cannot_be_explained_is_refused() -> None:
    images, _, _ = batch()
    for kind, method, message in (
        ("detr", "additive", "additive is no map of the detr decoder"),
        ("detr", "lime", "lime: there is no such map"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(patch_model(kind=kind), images, 0, method)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        explain(patch_model().train(), images)


@pytest.mark.parametrize("name", METHODS)
def test_wrong_arguments_of_any_method_are_one_line(name: str) -> None:
    """Rows of padding alone, other shapes, classes that do not exist, and comparisons that would be zero everywhere."""
    kind = "detr" if METHODS[name].applies(patch_model()) else "additive"
    if METHODS[name].knows_ground_truth:
        pytest.skip("is refused as it is")
    images, classes, mask = batch()
    padding = mask.clone()
    padding[1] = True
    wrong: list[tuple[dict[str, object], str]] = [
        ({"padding_mask": padding}, "image 1 is padding alone"),
        ({"padding_mask": mask[:, :8]}, r"padding_mask must be bool \[3, 32, 40\], not torch.bool \[3, 8, 40\]"),
        ({"images": images[0]}, r"images must be float \[B, 3, H, W\]"),
        ({"images": images[:0]}, "not empty"),
        ({"images": images / 0}, "images must be finite"),
        ({"classes": 5}, "indices from 0 to 4, .* not 5"),
        ({"classes": -1}, "indices from 0 to 4"),
        ({"classes": 1.5}, "not 1.5"),
        ({"classes": classes[:2]}, r"one for each of 3, not torch.int64 \[2\]"),
        (
            {"against": classes},
            "is a control, a map of no class" if METHODS[name].family == "control" else "compared with itself",
        ),
    ]
    for change, message in wrong:
        given = {"images": images, "classes": classes, "method": name, "padding_mask": mask} | change
        with pytest.raises(ValueError, match=message) as error:
            explain(patch_model(kind=kind), **given)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


def test_a_model_of_one_class_has_every_map_but_those_of_two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patches.CLASSES", 1)
    model, (images, _, mask) = patch_model(kind="additive"), batch()
    for name in ("additive", "additive_pixels", "attention", "gradcam", "centre"):
        maps = explain(model, images, None, name, mask)
        assert maps.isfinite().all() and maps.abs().sum() > 0
    for name in ("contrast", "finercam"):
        with pytest.raises(ValueError, match=f"{name} is no map of the additive decoder with one class") as error:
            explain(model, images, None, name, mask)
        assert "finercam" not in str(error.value).partition("choose from")[2]


def test_registries_are_imported_when_they_are_used() -> None:
    code = "import sys, attribution; assert 'torch' not in sys.modules; attribution.METHODS; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        attribution.nothing  # noqa: B018
