"""Perturbation curves against slow loops, against torchcam, and on models whose curves are known by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attribution.baselines import baseline_images
from attribution.metrics.faithfulness import PixelPerturbation, area, insertion_scores, pixel_ranks, removal_scores, score_clean

SIZE = 28


class Small(nn.Module):
    """A random convolutional net: its score depends on where things are, and on all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 5, stride=3)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolution(images).relu().flatten(1)) * 3


@pytest.fixture(scope="module")
def model() -> Small:
    return Small().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))  # no two values are the same


def scorer(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: model(images).softmax(1)


def slow_curve(model: nn.Module, start: Tensor, finish: Tensor, order: np.ndarray, steps: int) -> list[Tensor]:
    """RISE's loop for one image, `order` listing the pixels as they are to be changed: the probabilities of all classes."""
    now, scores = start.clone(), []
    with torch.no_grad():
        for step in range(steps + 1):
            scores.append(model(now[None]).softmax(1)[0])
            changed = order[step * len(order) // steps : (step + 1) * len(order) // steps].copy()
            now.flatten(1)[:, changed] = finish.flatten(1)[:, changed]
    return scores


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_curves_are_those_of_a_plain_loop(model: Small, images: Tensor, maps: Tensor, chunk: int) -> None:
    steps = 14
    clean = score_clean(scorer(model), images, chunk=chunk)
    to_mean, to_blur = (PixelPerturbation(scorer(model), clean, kind, steps=steps, chunk=chunk) for kind in ("mean", "blur"))
    siblings = (clean.classes + 1) % 4
    (found, removing), (inserted_scores, inserting) = removal_scores(to_mean, maps, siblings), insertion_scores(to_blur, maps)
    blurred, pixels = baseline_images(images, "blur"), SIZE * SIZE
    for b, heat in enumerate(maps):
        order = np.argsort(-heat.flatten().numpy(), kind="stable")
        assert len(np.unique(heat)) == pixels
        of = clean.classes[b].item()
        assert of == model(images[b : b + 1]).argmax().item()
        deleted = slow_curve(model, images[b], torch.zeros(3, SIZE, SIZE), order, steps)
        inserted = slow_curve(model, blurred[b], images[b], order, steps)
        least_first = slow_curve(model, images[b], torch.zeros(3, SIZE, SIZE), order[::-1], steps)
        curves = (removing["deletion"], inserting["insertion"], removing["least_first"])
        aucs = []
        for curve, slow in zip(curves, (deleted, inserted, least_first), strict=True):
            expected = [one[of].item() for one in slow]
            assert curve[b].tolist() == pytest.approx(expected, abs=1e-5)
            aucs.append((sum(expected) - expected[0] / 2 - expected[-1] / 2) / steps)
        assert found["deletion"][b].item() == pytest.approx(aucs[0], abs=1e-5)
        assert inserted_scores["insertion"][b].item() == pytest.approx(aucs[1], abs=1e-5)
        assert found["srg"][b].item() == pytest.approx(aucs[2] - aucs[0], abs=1e-5)
        assert inserted_scores["insertion_start"][b].item() == pytest.approx(inserted[0][of].item(), abs=1e-5)
        masked = images[b].flatten(1).clone()
        masked[:, order[: round(0.05 * pixels)]] = 0
        with torch.no_grad():
            drop = (model(images[b : b + 1]).softmax(1) - model(masked.view(1, 3, SIZE, SIZE)).softmax(1))[0]
        assert found["rd"][b].item() == pytest.approx((drop[of] - drop[siblings[b]]).item(), abs=1e-5)


class Extractor:
    """What torchcam's metrics want to know of a method; its maps are given."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *args: object, **options: object) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("kind", ["mean", "blur"])
def test_areas_are_those_of_torchcam(model: Small, images: Tensor, maps: Tensor, kind: str) -> None:
    """torchcam's `DeletionInsertionMetric` uses the same conventions where the steps divide the pixels and nothing ties: the
    trapezoid over the fraction, the class of the clean image, one replacement for both curves; it returns means over images."""
    metrics = pytest.importorskip("torchcam.metrics")
    if not hasattr(metrics, "DeletionInsertionMetric"):
        pytest.skip("this torchcam has no deletion and insertion")
    steps = 28  # divides 28 * 28
    clean = score_clean(scorer(model), images)
    removal = PixelPerturbation(scorer(model), clean, kind, steps=steps)
    ranks = pixel_ranks(clean, maps)
    deletion, insertion = area(removal.curve(ranks)), area(removal.curve(ranks, least_first=True))

    softmax = partial(torch.softmax, dim=-1)
    metric = metrics.DeletionInsertionMetric(Extractor(model, maps), softmax, steps=steps, baseline=removal.replacement)
    metric.update(images)
    found = metric.summary()
    assert found["deletion_auc"] == pytest.approx(deletion.mean().item(), abs=1e-5)
    assert found["insertion_auc"] == pytest.approx(insertion.mean().item(), abs=1e-5)


def mass_on(mask: Tensor) -> Callable[..., Tensor]:
    """Two classes: the share of the mask's pixels that are 1, and the rest."""

    def score(images: Tensor) -> Tensor:
        share = (images[:, 0] * mask).sum((1, 2)) / mask.sum()
        return torch.stack([share, 1 - share], 1)

    return score


def test_scores_known_by_hand() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[4:8, 5:10] = True  # 20 of 400 pixels: the 5 % of RD@5%
    score, images = mass_on(mask), torch.ones(4, 3, 20, 20)
    clean = score_clean(score, images)
    maps = torch.stack([mask.float(), -mask.float(), torch.zeros(20, 20), torch.full((20, 20), 0.1)])
    to_mean = PixelPerturbation(score, clean, "mean", steps=20)
    to_black = PixelPerturbation(score, clean, torch.zeros_like(images), steps=20)
    found, inserting = removal_scores(to_mean, maps, 1 - clean.classes)[0], insertion_scores(to_black, maps)[0]
    perfect, inverted, *constant = range(4)
    # the score falls from 1 to 0 within the first step, or within the last
    assert found["deletion"][[perfect, inverted]].tolist() == pytest.approx([0.5 / 20, 1 - 0.5 / 20])
    assert inserting["insertion"][[perfect, inverted]].tolist() == pytest.approx([1 - 0.5 / 20, 0.5 / 20])
    assert found["srg"][[perfect, inverted]].tolist() == pytest.approx([0.95, -0.95])
    assert found["rd"].tolist()[:2] == pytest.approx([2, 0])
    assert found["srg"][constant].abs().max() < 0.25  # a random order of 20 pixels among 400
    assert torch.equal(inserting["insertion_start"], torch.zeros(4))


def test_random_maps_gain_nothing() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[4:8, 5:10] = True
    score, images = mass_on(mask), torch.ones(300, 3, 20, 20)
    clean = score_clean(score, images)
    maps = torch.rand(300, 5, 5, generator=torch.Generator().manual_seed(0))
    removal = PixelPerturbation(score, clean, steps=10, chunk=512)
    srg = removal_scores(removal, maps, 1 - clean.classes)[0]["srg"]
    assert srg.mean().item() == pytest.approx(0, abs=4 * srg.std().item() / 300**0.5)
    assert srg.std() > 0.01


def test_ties_are_broken_at_random_and_reproducibly(model: Small, images: Tensor) -> None:
    clean = score_clean(scorer(model), images)
    flat = torch.ones(3, 7, 7)
    ranks = pixel_ranks(clean, flat, seed=1)
    assert torch.equal(ranks, pixel_ranks(clean, flat, seed=1))
    assert not torch.equal(ranks, pixel_ranks(clean, flat, seed=2))
    assert torch.equal(ranks.sort(1).values, torch.arange(SIZE * SIZE).expand(3, -1))
    rows = (torch.arange(SIZE * SIZE) // SIZE).double()
    assert abs(np.corrcoef(ranks[0], rows)[0, 1]) < 0.15  # not in reading order
    block = torch.zeros(3, SIZE, SIZE)
    block[:, :14] = 1
    ranks = pixel_ranks(clean, block)
    assert ranks[:, : 14 * SIZE].max() == 14 * SIZE - 1  # whatever the ties, the block comes first
    first = score_clean(scorer(model), images[:1])
    assert torch.equal(pixel_ranks(first, block[:1]), ranks[:1])  # and the batch does not matter


def test_maps_share_the_clean_forward(model: Small, images: Tensor, maps: Tensor) -> None:
    seen: list[int] = []

    def counting(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return model(batch).softmax(1)

    clean = score_clean(counting, images)
    to_mean, to_blur = (
        PixelPerturbation(counting, clean, steps=7, chunk=5),
        PixelPerturbation(counting, clean, "blur", steps=7, chunk=5),
    )
    assert sum(seen) == 3 * 3
    for _ in range(2):
        seen.clear()
        removal_scores(to_mean, maps, clean.classes)
        insertion_scores(to_blur, maps)
        assert sum(seen) == 3 * (3 * 6 + 1) and max(seen) <= 5


def test_bad_calls_end_in_one_line(model: Small, images: Tensor, maps: Tensor) -> None:
    clean = score_clean(scorer(model), images)
    with pytest.raises(ValueError, match="steps and chunk"):
        PixelPerturbation(scorer(model), clean, steps=0)
    with pytest.raises(ValueError, match="one map for each image"):
        pixel_ranks(clean, maps[:2])
    with pytest.raises(ValueError, match="NaN"):
        pixel_ranks(clean, maps * float("nan"))
