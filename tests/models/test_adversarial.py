"""Adversarial training: the pictures of a step are moved within the bound to where the loss is higher."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_flags, tiny_model

from datasets import ImageBatch
from models.adversarial import REPLAYS, Adversary
from trainer import build_trainer
from util.precision import Precision, select_precision

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 0.2]}
BOUND = torch.tensor([0.1, 0.05, 0.2])[:, None, None]


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (6, 64, 64, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    return ImageBatch(pictures, None, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))


def _given(images: torch.Tensor, mean: object, std: object) -> torch.Tensor:
    return images


def loss(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model.eval()(images).logits, labels)


def test_images_move_within_the_bound_to_a_higher_loss() -> None:
    model, some = tiny_model(), batch()
    images = some.normalise(**NORMALISATION)
    kept = images.clone()
    perturbation = Adversary(BOUND, ramp_steps=0).start(images, None, step=0)
    losses = []
    for _ in range(3):
        moved = perturbation.perturbed()
        now = loss(model, moved, some.labels)
        now.backward()
        losses.append(now.item())
        far = (moved - images).abs()
        assert (far <= BOUND * 1.0001).all() and (far.amax((0, 2, 3)) > 0.9 * BOUND.flatten()).all()
        perturbation.ascend(moved.grad)
    assert torch.equal(images, kept)
    noise = abs(losses[0] - loss(model, images, some.labels).item())
    assert losses[1] - losses[0] > 5 * noise and losses[2] > losses[1]


def test_the_bound_grows_over_the_ramp() -> None:
    images = batch().normalise(**NORMALISATION)
    limits = [Adversary(BOUND, ramp_steps=4).start(images, None, step).limit.amax((0, 2, 3)) for step in (0, 1, 3, 9)]
    for limit, share in zip(limits, (0.25, 0.5, 1, 1), strict=True):
        assert torch.allclose(limit, share * BOUND.flatten())


def test_padding_stays_as_it_is() -> None:
    some = batch()
    images, mask = some.normalise(**NORMALISATION), torch.zeros(6, 64, 64, dtype=torch.bool)
    mask[:, 48:] = True
    images = images.masked_fill(mask[:, None], 0)
    perturbation = Adversary(BOUND, ramp_steps=0).start(images, mask, step=0)
    perturbation.ascend(torch.ones_like(images))
    moved = perturbation.perturbed()
    assert torch.equal(moved[:, :, 48:], images[:, :, 48:]) and not torch.equal(moved[:, :, :48], images[:, :, :48])


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    perturbation = Adversary(BOUND, ramp_steps=0).start(torch.zeros(1, 3, 4, 4), None, step=0)
    before = perturbation.perturbed()
    perturbation.ascend(torch.full((1, 3, 4, 4), torch.nan))
    assert torch.equal(perturbation.perturbed(), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_flag_trains_on_every_batch_several_times(precision: str) -> None:
    """A step is REPLAYS of a plain trainer's, on images perturbed by the gradient of the step before."""
    args = tiny_flags("--adversarial", 8.0, "--dropout", 0, "--lr", 1e-3, "--epochs", 1)
    trainer = build_trainer(args, copy.deepcopy(tiny_model()), *settings(precision), 1)
    torch.manual_seed(0)
    found = trainer.step([batch()])[0].logits
    assert trainer.steps == 1

    plain = build_trainer(args.replace(adversarial=0.0), copy.deepcopy(tiny_model()), *settings(precision), 1)
    torch.manual_seed(0)
    some = batch()
    bound = 8 / 255 / torch.tensor(NORMALISATION["std"])[:, None, None]
    perturbation = Adversary(bound, ramp_steps=0).start(some.normalise(**NORMALISATION), None, step=0)
    for _ in range(REPLAYS):
        moved = perturbation.perturbed()
        some.normalise = partial(_given, moved)  # type: ignore[method-assign]
        plain.steps = 0  # the learning rate is one for all of them
        expected = plain.step([some])[0].logits
        perturbation.ascend(moved.grad)
    assert torch.equal(found, expected)
    assert all(torch.equal(value, plain.model.state_dict()[key]) for key, value in trainer.model.state_dict().items())


def settings(precision: str) -> tuple[Precision, dict[str, list[float]]]:
    return select_precision(precision, torch.device("cpu")), NORMALISATION
