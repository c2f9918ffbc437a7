"""Controls know their answer, their grid and their padding, and nothing of the model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from attribution.methods import controls
from attribution.metrics.localisation import average_precision, energy, pointing
from attribution.resize import pool_to

MASKS = torch.zeros(2, 32, 48, dtype=torch.bool)
MASKS[0, 8:16, 16:24] = True
MASKS[1, 4:7, 13:15] = True  # smaller than a cell, between two
EVERY = {
    "random": controls.random,
    "centre": controls.centre,
    "edges": controls.edges,
    "oracle": partial(controls.oracle, masks=MASKS),
}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


CLASSES = torch.tensor([0, 1])


@pytest.mark.parametrize("name", EVERY)
def test_signature_and_padding(name: str, images: Tensor) -> None:
    control = EVERY[name]
    assert control(None, images, CLASSES).shape == (2, 32, 48)
    padding = torch.zeros(2, 32, 48, dtype=torch.bool)
    padding[1, 16:], padding[1, :, 32:] = True, True
    for grid in (None, (4, 6)) if name == "random" else (None,):
        options = {"grid": grid} if name == "random" else {}
        maps = control(None, images.masked_fill(padding[:, None], 0), CLASSES, padding_mask=padding, **options)
        assert maps.dtype == torch.float32 and maps.shape == (2, *(grid or (32, 48)))
        assert maps[0].amax() > 0 and maps[1].amax() > 0
        rows, columns = (16, 32) if grid is None else (2, 4)
        assert (maps[1, rows:] == 0).all() and (maps[1, :, columns:] == 0).all()
        if name == "oracle":
            continue
        alone = control(None, images[1:, :, :16, :32], CLASSES[1:], **({"grid": (2, 4)} if grid else {}))
        edge = 1 if name == "edges" else 0  # beside padding the last ring of pixels has no edges
        assert torch.allclose(maps[1:, : rows - edge, : columns - edge], alone[:, : rows - edge, : columns - edge], atol=1e-6)


def test_random_depends_on_the_picture_alone(images: Tensor) -> None:
    both = controls.random(None, images, CLASSES, grid=(7, 7))
    again = controls.random(None, images.flip(0), CLASSES.flip(0), grid=(7, 7)).flip(0)
    assert torch.equal(both, again)
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, controls.random(None, images, CLASSES, grid=(7, 7), seed=1))
    assert not torch.equal(both, controls.random(None, images, CLASSES + 1, grid=(7, 7)))
    many = controls.random(None, images, CLASSES)
    assert many.mean().item() == pytest.approx(0.5, abs=0.05) and many.min() >= 0 and many.max() < 1


def test_centre_is_a_gaussian_of_a_quarter_of_the_picture(images: Tensor) -> None:
    maps = controls.centre(None, images, CLASSES)
    assert torch.allclose(maps, maps.flip(1)) and torch.allclose(maps, maps.flip(2))
    assert maps[0].argmax().item() in {15 * 48 + 23, 15 * 48 + 24, 16 * 48 + 23, 16 * 48 + 24}
    row, column = maps[0, 15], maps[0, :, 23]
    # one sigma from the centre: 8 pixels down, 12 across
    assert (column[23] + column[24]).item() / 2 == pytest.approx(torch.tensor(-0.5).exp().item() * row[23].item(), abs=0.01)
    assert (row[35] + row[36]).item() / 2 == pytest.approx(torch.tensor(-0.5).exp().item() * row[23].item(), abs=0.01)


def test_edges_lie_on_edges() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, :, 8:] = 2
    maps = controls.edges(None, images, CLASSES[:1])
    assert torch.equal(maps[0].any(0).nonzero().flatten(), torch.tensor([7, 8]))
    assert torch.allclose(maps[0, :, 7:9], torch.ones(16, 2))  # half of the step on either side
    padding = images[:, 0] > 0
    assert not controls.edges(None, 2 - images, CLASSES[:1], padding_mask=padding).any()  # the end of the picture is none
    ramp = torch.arange(16.0).view(16, 1).expand(1, 3, 16, 16)
    assert torch.allclose(controls.edges(None, ramp, CLASSES[:1])[:, 1:-1], torch.ones(1, 14, 16))


def test_oracle_is_the_ceiling_of_its_grid(images: Tensor) -> None:
    full = controls.oracle(None, images, CLASSES, masks=MASKS)
    assert pointing(full, MASKS).tolist() == energy(full, MASKS).tolist() == average_precision(full, MASKS).tolist() == [1, 1]
    coarse = pool_to(full, (4, 6))
    assert coarse[0].sum() == 1 and coarse[0, 1, 2] == 1  # its mask is that cell
    assert torch.allclose(coarse[1].sum(), MASKS[1].sum() / 64)
    assert pointing(coarse, MASKS).tolist() == [1, 0]  # the peak of a cell is its middle, and there the second mask is not
    for value in (energy(coarse, MASKS), average_precision(coarse, MASKS)):
        assert 0 < value[1] < value[0] <= 1
    with pytest.raises(ValueError, match="masks must be"):
        controls.oracle(None, images, CLASSES, masks=MASKS[:, :16])
