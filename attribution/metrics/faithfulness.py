"""Does the model need what a map marks? Pixels are replaced in the map's order, and the model is asked again.

Conventions, which differ between papers: the score is the softmax probability of the class predicted on the clean image; of the
n valid pixels, step k of K replaces the first `round(k n / K)` of the map's order; the area under a curve is
`(sum s - s_0/2 - s_K/2) / K` (Petsiuk et al., RISE, BMVC 2018, as in its code); ties are broken at random, in one order that
is the same for all images and maps, so that no score depends on what else was measured. Replacements are those of
`attribution.baselines`; maps are enlarged by `resize.enlarge`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attribution.baselines import baseline_images
from attribution.resize import enlarge

Score = Callable[..., Tensor]


class CleanScores(NamedTuple):
    """Images as they are, and what the model says of them: asked once, for all maps and replacements.

    images: `[B, 3, H, W]`, normalised.
    padding_mask: bool `[B, H, W]`, True on padding, or None.
    probabilities: `[B, C]`.
    classes: whose probability is followed, `[B]`.
    """

    images: Tensor
    padding_mask: Tensor | None
    probabilities: Tensor
    classes: Tensor

    @property
    def valid(self) -> Tensor:
        """The pixels of the pictures, `[B, H*W]`."""
        if self.padding_mask is None:
            return torch.ones(len(self.images), self.images[0, 0].numel(), dtype=torch.bool, device=self.images.device)
        return ~self.padding_mask.flatten(1)


def score_clean(
    score: Score, images: Tensor, padding_mask: Tensor | None = None, *, classes: Tensor | None = None, chunk: int = 64
) -> CleanScores:
    """The clean forward.

    Args:
        score: probabilities `[b, C]` of images `[b, 3, H, W]`; called `score(images)`, or `score(images, padding_mask)` where
            there is padding.
        images: `[B, 3, H, W]`, normalised.
        padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
        classes: whose probability is followed, `[B]`; None for the predicted ones.
        chunk: images a forward pass.
    """
    probabilities = _scored(score, images, padding_mask, chunk)
    return CleanScores(images, padding_mask, probabilities, probabilities.argmax(1) if classes is None else classes)


def ranks(clean: CleanScores, maps: Tensor, *, seed: int = 0) -> Tensor:
    """ProcessInfo of each pixel from the most relevant, 0, to the least; ties in the random order of `seed`.

    Args:
        clean: the images.
        maps: signed, `[B, h, w]`.

    Returns:
        int64 `[B, H*W]`; H*W on padding.

    Raises:
        ValueError: a map is not finite, or the shapes do not fit.
    """
    size = (clean.images.shape[2], clean.images.shape[3])
    if len(maps) != len(clean.images):
        raise ValueError(f"{len(maps)} maps for {len(clean.images)} images: one map for each image")
    values = enlarge(maps, size, clean.padding_mask).flatten(1).masked_fill(~clean.valid, -torch.inf)
    shuffle = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = shuffle[values[:, shuffle].argsort(stable=True, dim=1, descending=True)]
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).masked_fill(~clean.valid, values.shape[1])


class PixelPerturbation:
    """Replaces pixels of clean images, and asks for the score of what is left.

    Args:
        score: as for `ask`.
        clean: the images.
        kind: the replacement, `mean` or `blur`; or a tensor of the images' shape.
        steps: K, of a curve. RISE: 224 at 224 pixels; 28 is the quick choice.
        chunk: images a forward pass.
    """

    def __init__(
        self, score: Score, clean: CleanScores, kind: str | Tensor = "mean", *, steps: int = 28, chunk: int = 64
    ) -> None:
        if steps < 1 or chunk < 1:
            raise ValueError(f"steps and chunk must be at least 1, not {steps} and {chunk}")
        self.score, self.clean, self.steps, self.chunk = score, clean, steps, chunk
        self.replacement = baseline_images(clean.images, kind, clean.padding_mask) if isinstance(kind, str) else kind
        self.pixels = clean.valid.sum(1)  # [B]
        gone = torch.where(clean.valid.view(len(clean.images), 1, *clean.images.shape[-2:]), self.replacement, clean.images)
        self.blank = _scored(score, gone, clean.padding_mask, chunk)  # [B, C]

    def curve(self, places: Tensor, *, least_first: bool = False) -> Tensor:
        """Probability of the followed class with ever more pixels replaced.

        Args:
            places: of the pixels, from `ranks`.
            least_first: replace the least relevant first. Backwards in k this is the curve of insertion into the replacement.

        Returns:
            `[B, steps + 1]`, from the clean image to the replacement.
        """
        if least_first:
            places = (self.pixels[:, None] - 1 - places).masked_fill(~self.clean.valid, places.shape[1])
        image = torch.arange(len(places), device=places.device).repeat_interleave(self.steps - 1)
        step = torch.arange(1, self.steps, device=places.device).repeat(len(places))
        count = (step * self.pixels[image] * 2 + self.steps) // (2 * self.steps)  # rounded
        between = self._without(places, image, count, self.clean.classes).view(len(places), self.steps - 1)
        ends = [self._followed(one)[:, None] for one in (self.clean.probabilities, self.blank)]
        return torch.cat([ends[0], between, ends[1]], 1)

    def relative_drop(self, places: Tensor, siblings: Tensor, *, share: float = 0.05) -> Tensor:
        """RD@share (Finer-CAM, Zhang et al., CVPR 2025, eq. 10): what the most relevant pixels mean to the class alone.

        Args:
            places: of the pixels, from `ranks`.
            siblings: the class most confused with the followed one, `[B]`.
            share: of the valid pixels that are replaced.

        Returns:
            `[B]`: the drop of the class's probability less the drop of its sibling's.
        """
        image = torch.arange(len(places), device=places.device)
        count = (share * self.pixels).round().long()
        pair = torch.stack([self.clean.classes, siblings], 1)  # [B, 2]
        drop = self.clean.probabilities.gather(1, pair) - self._without(places, image, count, pair)
        return drop[:, 0] - drop[:, 1]

    def _followed(self, probabilities: Tensor) -> Tensor:
        return probabilities.gather(1, self.clean.classes[:, None])[:, 0]

    def _without(self, places: Tensor, image: Tensor, count: Tensor, classes: Tensor) -> Tensor:
        """Probabilities of `classes[image]` (`[n]` or `[n, Q]`) without the first `count` `[n]` pixels of `image` `[n]`."""
        images, padding = self.clean.images, self.clean.padding_mask
        found = []
        for rows, counts in zip(image.split(self.chunk), count.split(self.chunk), strict=True):
            removed = (places[rows] < counts[:, None]).view(len(rows), 1, *images.shape[-2:])
            perturbed = torch.where(removed, self.replacement[rows], images[rows])
            probabilities = _scored(self.score, perturbed, None if padding is None else padding[rows], self.chunk)
            wanted = classes[rows]
            found.append(probabilities.gather(1, wanted.view(len(rows), -1)).view(wanted.shape))
        return torch.cat(found) if found else torch.empty(0, device=images.device)


class RemovalScores(NamedTuple):
    """Scores of one map per image, `[B]` each, from pixels that turn to the mean colour; curves `[B, steps + 1]`.

    deletion: area under `deletion_curve`, most relevant first; lower is better.
    srg: symmetric relevance gain (Bluecher et al., TMLR 2024, arXiv 2401.06654): area under `least_first_curve`, least relevant
        first, less `deletion`. Random: 0.
    relative_drop: RD@5%.
    """

    deletion: Tensor
    srg: Tensor
    relative_drop: Tensor
    deletion_curve: Tensor
    least_first_curve: Tensor


class InsertionScores(NamedTuple):
    """Scores of one map per image, `[B]` each, from pixels that come back into the blurred image.

    insertion: area under `curve` `[B, steps + 1]`, most relevant first; higher is better.
    start: s_0, the score of the blurred image, which `insertion` cannot be read without.
    """

    insertion: Tensor
    start: Tensor
    curve: Tensor


def removal_scores(to_mean: PixelPerturbation, maps: Tensor, siblings: Tensor, *, seed: int = 0) -> RemovalScores:
    """Compute deletion, SRG and RD@5%, in `2 (steps - 1) + 1` perturbed images per map.

    Args:
        to_mean: of the images; make it once for all maps.
        maps: signed, `[B, h, w]`.
        siblings: the class most confused with the followed one, `[B]`.
        seed: of the order of ties.
    """
    places = ranks(to_mean.clean, maps, seed=seed)
    deletion = to_mean.curve(places)
    least_first = to_mean.curve(places, least_first=True)
    drop = to_mean.relative_drop(places, siblings)
    return RemovalScores(area(deletion), area(least_first) - area(deletion), drop, deletion, least_first)


def insertion_scores(to_blur: PixelPerturbation, maps: Tensor, *, seed: int = 0) -> InsertionScores:
    """Compute insertion, in `steps - 1` perturbed images per map; arguments as of `removal_scores`."""
    insertion = to_blur.curve(ranks(to_blur.clean, maps, seed=seed), least_first=True).flip(1)
    return InsertionScores(area(insertion), insertion[:, 0], insertion)


def area(curve: Tensor) -> Tensor:
    """Normalised area under curves `[B, K + 1]`: `(sum s - s_0/2 - s_K/2) / K`, `[B]`."""
    return (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / (curve.shape[1] - 1)


@torch.no_grad()
def _scored(score: Score, images: Tensor, padding_mask: Tensor | None, chunk: int) -> Tensor:
    if padding_mask is None:
        return torch.cat([score(part) for part in images.split(chunk)]).float()
    parts = zip(images.split(chunk), padding_mask.split(chunk), strict=True)
    return torch.cat([score(part, padding) for part, padding in parts]).float()
