"""Adversarial training: the pictures of a step are moved within the bound to where the loss is higher."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_flags, tiny_model

from datasets import ImageBatch
from models.adversarial import fgsm_perturb
from trainer import build_trainer
from util.precision import select_precision

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 0.2]}
BOUND = torch.tensor([0.1, 0.05, 0.2])[:, None, None]


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    return ImageBatch(pictures, None, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))


def _given(images: torch.Tensor, mean: object, std: object) -> torch.Tensor:
    return images


def loss(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(images).logits, labels))


def test_pictures_move_within_the_bound_to_a_higher_loss() -> None:
    model, some = tiny_model(), batch()
    images = some.normalise(**NORMALISATION)
    kept, model = images.clone(), model.train()
    moved = fgsm_perturb(model, images, None, some.labels, BOUND)
    assert model.training and not moved.requires_grad and all(p.grad is None for p in model.parameters())
    assert torch.equal(images, kept)
    far = (moved - images).abs()
    assert (far <= BOUND * 1.0001).all() and (far.amax((0, 2, 3)) > 0.99 * BOUND.flatten()).all()
    noise = images + BOUND * torch.empty_like(images).uniform_(-1, 1).sign()
    before = loss(model, images, some.labels)
    assert loss(model, moved, some.labels) - before > 5 * abs(loss(model, noise, some.labels) - before)


def test_padding_stays_as_it_is() -> None:
    some = batch()
    images, mask = some.normalise(**NORMALISATION), torch.zeros(6, 64, 64, dtype=torch.bool)
    mask[:, 48:] = True
    images = images.masked_fill(mask[:, None], 0)
    moved = fgsm_perturb(tiny_model(), images, mask, some.labels, BOUND)
    assert torch.equal(moved[:, :, 48:], images[:, :, 48:]) and not torch.equal(moved[:, :, :48], images[:, :, :48])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_flag_trains_on_the_moved_pictures(precision: str) -> None:
    """The step is that of a plain trainer on pictures that were fgsm_perturb by grey levels of 255."""
    found = []
    for level in (8.0, 0.0):
        args = tiny_flags("--adversarial", level, "--dropout", 0, "--lr", 1e-3)
        model = copy.deepcopy(tiny_model())
        trainer = build_trainer(args, model, select_precision(precision, torch.device("cpu")), NORMALISATION, 10)
        torch.manual_seed(0)
        some = batch()
        if not level:
            bound = 8 / 255 / torch.tensor(NORMALISATION["std"])[:, None, None]
            with trainer.precision.autocast():
                moved = fgsm_perturb(model, some.normalise(**NORMALISATION), None, some.labels, bound)
            some.normalise = partial(_given, moved)  # type: ignore[method-assign]
        logits = trainer.step([some])[0].logits
        found.append((logits, {key: value.clone() for key, value in model.state_dict().items()}))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())
