"""The additive map at the pixels, of classifiers whose evidence is where we put it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from patches import patch_model
from torch import Tensor, nn

from attribution.baselines import gaussian_blur
from attribution.methods.pixel_gradients import BLUR, additive_pixels, path_gradients
from models import DECODERS, ICN

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, CELL = 64, 16
ROWS = {"shared": slice(5, 8), "own": slice(37, 40), "other": slice(53, 56), "rival": slice(43, 46)}  # thinner than a cell
SHARED, OWN, OTHER, RIVAL = ((rows, slice(30, 34)) for rows in ROWS.values())  # each its own mirror image


class Spots(nn.Module):
    """Class 0 has the shared spot and one of its own; class 1 the shared, another, and a weak rival in the cell of the own one.

    The shared spot speaks against class 2.
    """

    decoder_spec = DECODERS["additive"]

    def evidence(self, images: Tensor, padding_mask: None, classes: Tensor) -> tuple[None, Tensor]:
        spots = torch.stack([_mask(place).to(images) for place in (SHARED, OWN, OTHER, RIVAL)])
        found = F.avg_pool2d(torch.relu(images).mean(1, keepdim=True) * spots, CELL)  # [B, 4, 4, 4]
        shared, own, other, rival = found.unbind(1)
        return None, torch.stack([shared + own, shared + other + rival / 2, -shared], 1)[
            torch.arange(len(images))[:, None], classes
        ]


def _mask(place: tuple[slice, slice]) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[place] = True
    return mask


def picture() -> Tensor:
    image = torch.zeros(1, 3, SIDE, SIDE)
    for place in (SHARED, OWN, OTHER, RIVAL):
        image[(..., *place)] = 1
    return image


def of(label: int, sibling: int, **options: Any) -> Tensor:
    model: Any = Spots()
    return additive_pixels(model, picture(), torch.tensor([label]), siblings=torch.tensor([sibling]), **options)


def peak(heat: Tensor, place: tuple[slice, slice]) -> float:
    return float(heat[0][_mask(place)].max())


def test_a_spot_thinner_than_its_cell_is_found_to_the_pixel() -> None:
    for label, sibling, own, other in ((0, 1, OWN, OTHER), (1, 0, OTHER, OWN)):
        heat = of(label, sibling)
        assert heat.shape == (1, SIDE, SIDE) and heat.dtype == torch.float32 and not heat.requires_grad
        y, x = divmod(int(heat[0].argmax()), SIDE)
        assert bool(_mask(own)[y, x]) and peak(heat, other) < 0.05 * float(heat.max())
        rows, columns = own
        beside = float(heat[0, rows.start - 1, columns].max())
        assert 0.1 * float(heat.max()) < beside < float(heat.max()), "it is smooth"


def test_what_separates_from_the_sibling_comes_before_what_both_have() -> None:
    heat = of(0, 1)
    # All of the second half lies on the own spot: 1/2 + 1/2 against 1/2 of the mass.
    assert peak(heat, OWN) == pytest.approx(2 * peak(heat, SHARED), rel=0.05)
    # To a class that has neither both spots separate alike, the shared one twice: it speaks for one and against the other.
    heat = of(0, 2)
    assert peak(heat, SHARED) == pytest.approx(peak(heat, OWN) * (1 / 2 + 1 / 3) / (1 / 2 + 1 / 6), rel=0.05)


def test_what_speaks_only_for_the_sibling_counts_nothing() -> None:
    heat = of(0, 1)
    assert abs(float(heat[0][_mask(RIVAL)].mean())) < 0.02 * float(heat.max())


def test_a_class_without_positive_evidence_has_an_empty_map() -> None:
    assert (of(2, 0) == 0).all()


def test_shares_are_of_the_positive_mass() -> None:
    from attribution.methods.pixel_gradients import _shares

    torch.testing.assert_close(_shares(torch.tensor([[[3.0, 1.0, -4.0]]])), torch.tensor([[[0.75, 0.25, -1.0]]]))


def test_the_mirrored_picture_has_the_mirrored_map() -> None:
    model = patch_model(kind="additive")
    image = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    maps = [additive_pixels(model, x, torch.tensor([2]), siblings=torch.tensor([1])) for x in (image, image.flip(-1))]
    torch.testing.assert_close(maps[0], maps[1].flip(-1), rtol=1e-3, atol=1e-6)


def test_maps_are_float32_and_free_of_the_graph_of_the_picture() -> None:
    model: Any = Spots()
    known = torch.tensor([0]), torch.tensor([1])
    usual = of(0, 1)
    with torch.inference_mode():
        heats = [additive_pixels(model, picture(), known[0], siblings=known[1])]
    heats.append(additive_pixels(model, picture().requires_grad_(), known[0], siblings=known[1]))
    heats.append(additive_pixels(model, picture().double(), known[0], siblings=known[1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heats.append(additive_pixels(model, picture(), known[0], siblings=known[1]))
    for heat in heats:
        assert heat.dtype == torch.float32 and not heat.requires_grad
        torch.testing.assert_close(heat, usual, rtol=0.05, atol=0.02 * float(usual.max()))


def test_the_gradients_of_a_path_sum_to_the_change_along_it() -> None:
    image = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def functions(x: Tensor) -> list[Tensor]:
        return [x.square().sum(), (3 * x).sum()]

    start = gaussian_blur(image, BLUR * SIDE)
    for found, end, begin in zip(path_gradients(functions, image, 4), functions(image), functions(start), strict=True):
        torch.testing.assert_close(found.sum(), end - begin, rtol=1e-4, atol=1e-2)


def test_a_picture_does_not_depend_on_those_beside_it() -> None:
    model = patch_model(kind="additive")
    images = torch.randn(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    classes, siblings = torch.tensor([2, 0, 4]), torch.tensor([1, 3, 0])
    together = additive_pixels(model, images, classes, siblings=siblings)
    for i in range(3):
        single = additive_pixels(model, images[i : i + 1], classes[i : i + 1], siblings=siblings[i : i + 1])
        torch.testing.assert_close(together[i], single[0], rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="a map of --decoder additive or average"):
        call: ICN = patch_model(kind="detr")
        additive_pixels(call, picture(), torch.tensor([0]), siblings=torch.tensor([1]))
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        of(0, 1, steps=0)
