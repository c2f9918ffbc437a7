"""The contrast of two classes, on classifiers whose evidence is where we put it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attribution.methods.pixel_gradients import contrast

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64
THERE, MISSING = (slice(8, 20), slice(26, 38)), (slice(40, 52), slice(26, 38))  # each its own mirror image


class Bright(nn.Module):
    """Class 0 is a bright square at one place, class 1 one at another, class 2 never is."""

    def forward(self, images: Tensor) -> SimpleNamespace:
        found = [torch.relu(images[:, :, rows, columns]).mean((1, 2, 3)) for rows, columns in (THERE, MISSING)]
        return SimpleNamespace(logits=torch.stack([*found, torch.zeros_like(found[0])], 1))


def picture() -> Tensor:
    """The first square, on a ground that is a little brighter than nothing, so that a second one has a slope to climb."""
    image = torch.full((1, 3, SIDE, SIDE), 0.01)
    image[(..., *THERE)] = 1
    return image


def inside(heat: Tensor, place: tuple[slice, slice]) -> float:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[place] = True
    return float(heat[0][mask].sum() / heat.sum())


def of(sibling: int, **options: Any) -> Tensor:
    return contrast(Bright(), picture(), torch.tensor([0]), siblings=torch.tensor([sibling]), **options)


def test_what_is_there_and_what_is_missing_are_both_found() -> None:
    heat = of(1)
    assert heat.shape == (1, SIDE, SIDE) and (heat >= 0).all() and not heat.requires_grad
    area = 12 * 12 / SIDE**2
    assert inside(heat, THERE) > 10 * area and inside(heat, MISSING) > 2 * area
    # Against a class that is nowhere, only what is there speaks.
    assert inside(of(2), THERE) > 0.5 and inside(of(2), MISSING) < 1e-3


def test_a_part_that_is_missing_is_where_it_would_be() -> None:
    """Nothing is in the picture: the class is the one without the square, as a plain wingtip is one without a winglet."""
    empty = torch.full((1, 3, SIDE, SIDE), 0.01)
    heat = contrast(Bright(), empty, torch.tensor([2]), siblings=torch.tensor([1]))
    peak = divmod(int(heat[0].argmax()), SIDE)
    assert all(side.start <= place < side.stop for place, side in zip(peak, MISSING, strict=True))
    assert inside(heat, MISSING) > 0.5


def test_same_seed_same_map_and_no_trace_in_the_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    classifier = nn.Module()
    classifier.body = model
    classifier.forward = lambda images: SimpleNamespace(logits=model(images))  # type: ignore[method-assign]
    with torch.inference_mode():
        first, again, other = (
            contrast(classifier, picture(), torch.tensor([0]), siblings=torch.tensor([1]), seed=seed) for seed in (0, 0, 1)
        )
    assert torch.equal(first, again) and torch.allclose(first, other), "a linear classifier has one slope everywhere"
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not torch.equal(of(1, seed=0), of(1, seed=1))


def test_the_mirrored_picture_counts_as_much() -> None:
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    maps = [contrast(Bright(), x, torch.tensor([0]), siblings=torch.tensor([1])) for x in (image, image.flip(-1))]
    torch.testing.assert_close(maps[0], maps[1].flip(-1))


def test_half_precision_gives_nearly_the_same_map() -> None:
    class Half(Bright):
        def forward(self, images: Tensor) -> SimpleNamespace:
            assert images.dtype == torch.bfloat16, "weights of half precision take no other pictures"
            return super().forward(images)

    half = contrast(Half(), picture().bfloat16(), torch.tensor([0]), siblings=torch.tensor([1]))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, of(1), rtol=0.1, atol=0.05 * float(half.max()))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps \(8, 0\) must be at least 1 each"):
        of(1, steps=(8, 0))
