"""Scores of whether an image shows a known class: closed forms, invariances, and Gaussians of features."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny_model

from models.icn import resize_mask
from models.unknown import LOGIT_SCORES, Mahalanobis, energy, max_logit, max_probability, pool, positive_evidence

LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-4.0, -4.0, -4.0]])


def test_closed_forms() -> None:
    e4 = math.exp(4)
    assert max_probability(LOGITS, "ce").tolist() == pytest.approx([e4 / (e4 + 2), 1 / 3, 1 / 3])
    assert max_probability(LOGITS, "bce").tolist() == pytest.approx([e4 / (e4 + 1), 0.5, 1 / (1 + e4)], rel=1e-5)
    assert max_logit(LOGITS, "ce").tolist() == [4, 0, -4]
    assert energy(LOGITS, "ce").tolist() == pytest.approx([math.log(e4 + 2), math.log(3), math.log(3) - 4])
    joint = [math.log(1 + e4) + 2 * math.log(2), 3 * math.log(2), 3 * math.log1p(1 / e4)]
    assert energy(LOGITS, "bce").tolist() == pytest.approx(joint, rel=1e-5)


def test_without_evidence_for_any_class_an_image_is_the_least_known_but_softmax_does_not_see_it() -> None:
    for name, score in LOGIT_SCORES.items():
        values = score(LOGITS.half(), "bce").tolist()
        assert values == sorted(values, reverse=True) and len(set(values)) == 3, name
    assert max_probability(LOGITS[1:], "ce").tolist() == pytest.approx([1 / 3, 1 / 3])  # the same map added to every class


def test_positive_evidence_is_at_least_the_logit_and_padding_has_none() -> None:
    model = tiny_model(backbone="resnet18", decoder="additive", enc_layers=0, feature_stride=16)
    images = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 64, 80, dtype=torch.bool)
    mask[1, :, 48:] = True
    with torch.no_grad():
        output = model(images, mask)
        best = output.logits.argmax(1)
        maps = model.evidence_of(output.features, mask, best[:, None])[:, 0]
        alone = model(images[1:, :, :, :48])
    assert (positive_evidence(maps) >= output.logits.amax(1) - model.presence_vector.bias - 1e-5).all()
    assert maps.min() < 0 and maps[1, :, 3:].eq(0).all()  # some cells speak against the class, and they do not count
    torch.testing.assert_close(pool(output.features, resize_mask(mask, output.features))[1:].shape, pool(alone.features).shape)


def test_pooling_does_not_see_padding() -> None:
    features = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[:, :, 2:] = True
    torch.testing.assert_close(pool(features, mask), pool(features[..., :2]))


def gaussians(count: int, classes: int, dimensions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of classes far apart with one covariance, their labels, and the true means."""
    generator = torch.Generator().manual_seed(0)
    means = 10 * torch.randn(classes, dimensions, generator=generator, dtype=torch.float64)
    labels = torch.arange(count) % classes
    scale = torch.linspace(0.5, 2, dimensions, dtype=torch.float64)
    noise = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    return means[labels] + scale * noise, labels, means


def test_distances_of_many_images_are_those_of_the_true_gaussians() -> None:
    features, labels, means = gaussians(6000, 3, 4)
    fitted = Mahalanobis.fit(features, labels, 3)
    x = means[1:2] + torch.tensor([[2.0, 0.0, 0.0, -2.0]], dtype=torch.float64)
    scale = torch.linspace(0.5, 2, 4, dtype=torch.float64)
    assert float(fitted.score(x)) == pytest.approx(-float(((x - means[1]) / scale).square().sum()), rel=0.15)
    assert fitted.score(means).min() > fitted.score(means.mean(0, keepdim=True))[0]
    # A linear map of the features changes no distance, but for the shrinkage.
    turn = torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], dtype=torch.float64)
    turned = Mahalanobis.fit(features @ turn, labels, 3)
    torch.testing.assert_close(turned.score(x @ turn), fitted.score(x), rtol=0.05, atol=0.05)


def test_few_images_and_a_class_without_any() -> None:
    features, labels, means = gaussians(8, 2, 20)
    fitted = Mahalanobis.fit(features, labels, 4)  # fewer images than dimensions, and classes 2 and 3 have none
    scores = fitted.score(torch.cat([means, 50 + means]))
    assert scores.isfinite().all() and scores[:2].min() > scores[2:].max()
    assert fitted.relative_score(features).isfinite().all()
    same = Mahalanobis.fit(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), 2)  # no spread at all
    assert float(same.score(torch.ones(1, 3))) == 0 and same.score(torch.zeros(1, 3)) < 0
    with pytest.raises(ValueError, match="at least two images"):
        Mahalanobis.fit(features[:1], labels[:1], 2)


def test_the_relative_score_forgives_what_no_class_differs_in() -> None:
    features, labels, means = gaussians(4000, 3, 4)
    features[:, 3] = 30 * torch.randn(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # in all images
    fitted = Mahalanobis.fit(features, labels, 3)
    means = torch.stack([features[labels == label].mean(0) for label in range(3)])
    odd = means + torch.tensor([0, 0, 0, 90.0])  # far along that direction alone
    assert (fitted.score(odd) < fitted.score(means) - 5).all()
    torch.testing.assert_close(fitted.relative_score(odd), fitted.relative_score(means), rtol=0.1, atol=1.0)
