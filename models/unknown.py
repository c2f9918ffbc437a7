"""Scores of whether an image shows any of the known classes: the higher, the more it does.

Those of `LOGIT_SCORES` need nothing but the logits, so that training keeps a threshold on one of them in its checkpoints
(`models.thresholds`). Evidence needs an additive decoder; distances need Gaussians of the features of training images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import class_probabilities


def max_probability(logits: Tensor, loss: str) -> Tensor:
    """Return the largest probability of a class, `[B]` (maximum softmax probability, Hendrycks & Gimpel, ICLR 2017).

    Args:
        logits: `[B, C]`.
        loss: that of the model, which decides what a logit means: a name of `models.architecture.LOSSES`.
    """
    return class_probabilities(logits, loss).amax(-1)


def max_logit(logits: Tensor, loss: str) -> Tensor:
    """Return the largest logit, `[B]`, of `[B, C]` (Hendrycks et al., ICML 2022); of sigmoids it has the order of the maximum."""
    return logits.float().amax(-1)


def energy(logits: Tensor, loss: str) -> Tensor:
    """Return the negative free energy, `[B]`, of logits `[B, C]`.

    `log sum_c exp(logit_c)` (Liu et al., NeurIPS 2020, equation 4); where each class has a sigmoid, the sum of their energies
    `sum_c log(1 + exp(logit_c))` (JointEnergy, Wang et al., NeurIPS 2021, equation 5).
    """
    return F.softplus(logits.float()).sum(-1) if loss == "bce" else logits.float().logsumexp(-1)


DISTANCE = "relative_mahalanobis"  # name of `Mahalanobis.relative_score`, which can be kept in a checkpoint, too
LogitScore = Callable[[Tensor, str], Tensor]
LOGIT_SCORES: dict[str, LogitScore] = {"max_probability": max_probability, "max_logit": max_logit, "energy": energy}


def positive_evidence(maps: Tensor) -> Tensor:
    """Return the total positive evidence of a class, `[B]`: what speaks for it, whatever else speaks against it.

    `maps` `[B, h, w]` are those of the most probable class, of a decoder whose logit is their sum (`ICN.evidence_of`).
    """
    return maps.float().clamp(min=0).sum((-2, -1))


def pool(features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Return the mean of features `[B, D, h, w]` over the cells that are no padding (bool `[B, h, w]`), float32 `[B, D]`."""
    if padding_mask is None:
        return features.float().mean((-2, -1))
    valid = (~padding_mask)[:, None].float()  # [B, 1, h, w]
    return (features.float() * valid).sum((-2, -1)) / valid.sum((-2, -1))


@dataclass(frozen=True)
class Mahalanobis:
    """Gaussians of the pooled features of each class, with one covariance for all (Lee et al., NeurIPS 2018, equation 1).

    Attributes:
        means: `[C, D]` float64, as the others; a class without images has none (NaN) and is never the nearest.
        precision: inverse of the shared covariance, `[D, D]`.
        mean, spread: of all images, whatever their class: `[D]`, and the inverse of their covariance `[D, D]`.
    """

    means: Tensor
    precision: Tensor
    mean: Tensor
    spread: Tensor

    @staticmethod
    def fit(features: Tensor, labels: Tensor, classes: int) -> Mahalanobis:
        """Fit the means and covariances to the features `[N, D]` of training images with labels `[N]`, on the CPU.

        Raises:
            ValueError: there are fewer than two images, or a feature is not finite.
        """
        if len(features) < 2 or not features.isfinite().all():
            raise ValueError(f"Gaussians need at least two images with finite features; there are {len(features)}")
        x = features.double()
        counts = torch.bincount(labels, minlength=classes)[:, None]  # [C, 1]
        means = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x) / counts
        return Mahalanobis(means, _precision(x - means[labels]), x.mean(0), _precision(x - x.mean(0)))

    def score(self, features: Tensor) -> Tensor:
        """Return minus the squared distance `[B]` of features `[B, D]` to the nearest class."""
        x, means = features.double() - self.mean, self.means - self.mean
        products = means @ self.precision  # [C, D]
        distances = _squared(x, self.precision)[:, None] - 2 * x @ products.T + (products * means).sum(1)  # [B, C]
        return -distances.nan_to_num(torch.inf).amin(1)

    def relative_score(self, features: Tensor) -> Tensor:
        """Return `score` less that of one Gaussian for all images (Ren et al. 2021, arXiv 2106.09022, equation 3), `[B]`.

        What is far from every image, in directions in which classes do not differ, no longer decides; for unknown classes that
        look like the known ones.
        """
        return self.score(features) + _squared(features.double() - self.mean, self.spread)


def _squared(x: Tensor, precision: Tensor) -> Tensor:
    return ((x @ precision) * x).sum(-1)


def _precision(centred: Tensor) -> Tensor:
    """Return the inverse of the covariance of centred `[N, D]`, shrunk to a multiple of the identity.

    The share is that of the oracle approximating shrinkage (Chen et al., IEEE TSP 2010, equation 23), so that it has an inverse
    with fewer images than dimensions, too.
    """
    n, d = centred.shape
    covariance = centred.T @ centred / n
    trace, squares = covariance.trace(), covariance.square().sum()
    target = (trace / d).clamp(min=1e-12)
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    share = (((1 - 2 / d) * squares + trace**2) / spread).clamp(max=1) if spread > 0 else covariance.new_ones(())
    shrunk = (1 - share) * covariance + share * target * torch.eye(d, dtype=covariance.dtype)
    return torch.linalg.inv(shrunk)
