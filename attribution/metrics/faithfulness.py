"""Faithfulness metrics by pixel perturbation: insertion, deletion, symmetric relevance gain and relative drop.

Conventions, which differ between papers: the score is the probability of the class predicted on the clean image; of n
pixels, step k of K replaces the first `round(k n / K)` in the order of the map; the area under a curve is
`(sum s - s_0/2 - s_K/2) / K` (Petsiuk et al., RISE, BMVC 2018, as in its code); ties are broken at random, in one order that is
the same for all images and maps, so that no score depends on what else was measured. Images are not padded. Replacements are
those of `attribution.baselines`; maps are enlarged by `resize.enlarge`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attribution.baselines import baseline_images
from attribution.resize import enlarge

Score = Callable[[Tensor], Tensor]  # images [b, 3, H, W] -> probabilities [b, C]
Scores = dict[str, Tensor]


class CleanScores(NamedTuple):
    """Unperturbed images and the model's probabilities, computed once for all maps and replacements."""

    images: Tensor  # [B, 3, H, W], normalised
    probabilities: Tensor  # [B, C]
    classes: Tensor  # [B], whose probability is followed


def score_clean(score: Score, images: Tensor, *, classes: Tensor | None = None, chunk: int = 64) -> CleanScores:
    """Score unperturbed images `[B, 3, H, W]`, `chunk` a forward pass; without `classes` the predicted ones are followed."""
    probabilities = _probabilities(score, images, chunk)
    return CleanScores(images, probabilities, probabilities.argmax(1) if classes is None else classes)


def pixel_ranks(clean: CleanScores, maps: Tensor, *, seed: int = 0) -> Tensor:
    """Rank the pixels of signed, finite maps `[B, h, w]`, one for each image, from the most relevant, 0: int64 `[B, H*W]`."""
    if len(maps) != len(clean.images):
        raise ValueError(f"{len(maps)} maps for {len(clean.images)} images: one map for each image")
    values = enlarge(maps, (clean.images.shape[2], clean.images.shape[3])).flatten(1)
    shuffle = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = shuffle[values[:, shuffle].argsort(stable=True, dim=1, descending=True)]
    ranks = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)


class PixelPerturbation:
    """Images with their pixels replaced in the order of a map, and the model's probabilities for them.

    The replacement `kind` is `mean`, `blur` or a tensor of the images' shape; `steps` is K of a curve (RISE: 224 at 224 pixels),
    `chunk` the number of images a forward pass; a ValueError is raised where one is below 1.
    """

    def __init__(self, score: Score, clean: CleanScores, kind: str | Tensor = "mean", steps: int = 28, chunk: int = 64) -> None:
        if steps < 1 or chunk < 1:
            raise ValueError(f"steps and chunk must be at least 1, not {steps} and {chunk}")
        self.score, self.clean, self.steps, self.chunk = score, clean, steps, chunk
        self.replacement = baseline_images(clean.images, kind) if isinstance(kind, str) else kind
        self.pixels = clean.images[0, 0].numel()
        self.blank = _probabilities(score, self.replacement, chunk)  # [B, C]

    def curve(self, ranks: Tensor, *, least_first: bool = False) -> Tensor:
        """Compute the followed class's probability as more pixels are replaced, `[B, steps + 1]`; `ranks` from `pixel_ranks`.

        With the least relevant pixels first this is, backwards in k, the curve of insertion into the replacement.
        """
        if least_first:
            ranks = self.pixels - 1 - ranks
        image = torch.arange(len(ranks), device=ranks.device).repeat_interleave(self.steps - 1)
        step = torch.arange(1, self.steps, device=ranks.device).repeat(len(ranks))
        count = (step * self.pixels * 2 + self.steps) // (2 * self.steps)  # rounded
        between = self._without(ranks, image, count, self.clean.classes).view(len(ranks), self.steps - 1)
        first, last = (scores.gather(1, self.clean.classes[:, None]) for scores in (self.clean.probabilities, self.blank))
        return torch.cat([first, between, last], 1)

    def relative_drop(self, ranks: Tensor, siblings: Tensor, *, share: float = 0.05) -> Tensor:
        """Compute RD@share (Finer-CAM, Zhang et al., CVPR 2025, eq. 10), the relevance to the class alone.

        That is the drop of the class's probability, `[B]`, less the drop of that of the class most confused with it.
        """
        image = torch.arange(len(ranks), device=ranks.device)
        count = (share * torch.full_like(image, self.pixels)).round().long()
        pair = torch.stack([self.clean.classes, siblings], 1)  # [B, 2]
        drop = self.clean.probabilities.gather(1, pair) - self._without(ranks, image, count, pair)
        return drop[:, 0] - drop[:, 1]

    def _without(self, ranks: Tensor, image: Tensor, count: Tensor, classes: Tensor) -> Tensor:
        """Return probabilities of `classes[image]`, `[n]` or `[n, Q]`, without the first `count` `[n]` pixels of `image`."""
        images, parts = self.clean.images, []
        for rows, counts in zip(image.split(self.chunk), count.split(self.chunk), strict=True):
            removed = (ranks[rows] < counts[:, None]).view(len(rows), 1, *images.shape[-2:])
            perturbed = torch.where(removed, self.replacement[rows], images[rows])
            probabilities = _probabilities(self.score, perturbed, self.chunk)
            indices = classes[rows]
            parts.append(probabilities.gather(1, indices.view(len(rows), -1)).view(indices.shape))
        return torch.cat(parts) if parts else torch.empty(0, device=images.device)


def removal_scores(to_mean: PixelPerturbation, maps: Tensor, siblings: Tensor, *, seed: int = 0) -> tuple[Scores, Scores]:
    """Compute scores of signed maps `[B, h, w]` from pixels that turn to the mean, in `2 (steps - 1) + 1` perturbed images each.

    Returns:
        Scores `[B]`: `deletion`, the area under that curve, lower is better; `srg`, the symmetric relevance gain (Bluecher et
        al., TMLR 2024, arXiv 2401.06654), the area under `least_first` less `deletion`, random 0; `rd`, RD@5%. And the curves
        `[B, steps + 1]`: `deletion`, most relevant first, and `least_first`.
    """
    ranks = pixel_ranks(to_mean.clean, maps, seed=seed)
    deletion, least_first = to_mean.curve(ranks), to_mean.curve(ranks, least_first=True)
    drop = to_mean.relative_drop(ranks, siblings)
    scores = {"srg": area(least_first) - area(deletion), "rd": drop, "deletion": area(deletion)}
    return scores, {"deletion": deletion, "least_first": least_first}


def insertion_scores(to_blur: PixelPerturbation, maps: Tensor, *, seed: int = 0) -> tuple[Scores, Scores]:
    """Compute scores from pixels that come back into the blurred image, most relevant first; as `removal_scores`.

    Scores: `insertion`, the area under the curve `insertion`, higher is better, which cannot be read without `insertion_start`,
    s_0, the score of the blurred image.
    """
    curve = to_blur.curve(pixel_ranks(to_blur.clean, maps, seed=seed), least_first=True).flip(1)
    return {"insertion": area(curve), "insertion_start": curve[:, 0]}, {"insertion": curve}


def area(curve: Tensor) -> Tensor:
    """Return the normalised area under curves `[B, K + 1]`: `(sum s - s_0/2 - s_K/2) / K`, `[B]`."""
    return (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / (curve.shape[1] - 1)


@torch.no_grad()
def _probabilities(score: Score, images: Tensor, chunk: int) -> Tensor:
    return torch.cat([score(part) for part in images.split(chunk)]).float()
