"""Baselines against the Gaussian written out, and images beside padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attribution.baselines import baseline_images, gaussian_blur

SIZE = 28


def test_blur_is_a_gaussian_that_does_not_darken_the_border() -> None:
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    blurred = baseline_images(images, "blur")
    offset = np.arange(11) - 5
    weights = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 5.0**2))
    picture = images[1, 2].double().numpy()
    for row, column in ((14, 14), (0, 0), (27, 9)):
        top, left = row - 5, column - 5
        inside = [(i, j) for i in range(11) for j in range(11) if 0 <= top + i < SIZE and 0 <= left + j < SIZE]
        total = sum(weights[i, j] * picture[top + i, left + j] for i, j in inside)
        assert blurred[1, 2, row, column].item() == pytest.approx(total / sum(weights[at] for at in inside), abs=1e-5)
    even = baseline_images(torch.full((1, 3, 20, 20), 0.7), "blur")
    assert torch.allclose(even, torch.full_like(even, 0.7))
    assert torch.equal(baseline_images(images, "mean"), torch.zeros_like(images))
    with pytest.raises(ValueError, match="mean or blur"):
        baseline_images(images, "noise")


def test_a_blur_is_as_wide_as_its_sigma_and_fits_a_small_image() -> None:
    point = torch.zeros(1, 1, 61, 61)
    point[..., 30, 30] = 1
    blurred = gaussian_blur(point, 4.0)[0, 0]
    assert blurred.sum().item() == pytest.approx(1)
    assert (blurred[30, 34] / blurred[30, 30]).item() == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert gaussian_blur(torch.rand(1, 3, 4, 5), 8.0).shape == (1, 3, 4, 5)
