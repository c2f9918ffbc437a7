"""Partitions by the heads and by controls: heads sum to the map, clusters are found, and only by what they may know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_model

from attribution.evaluation.partitions import HEADS, KMEANS, OBJECT_KMEANS, RANDOM, cluster, fit_controls, head_maps
from attribution.methods.attention import additive, attention

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([2, 0])


@pytest.mark.parametrize("decoder", ["detr", "additive"])
def test_heads_are_those_of_the_map(decoder: str) -> None:
    changes = {"dec_layers": 0, "decoder": "additive"} if decoder == "additive" else {}
    model = tiny_model(**changes)
    maps = head_maps(model, IMAGES, CLASSES)
    torch.testing.assert_close(maps[HEADS[0]].mean(1), attention(model, IMAGES, CLASSES))
    assert list(maps) == list(HEADS[: 1 + (decoder == "additive")]) and maps[HEADS[0]].shape[:2] == (2, 4)
    if decoder == "additive":
        torch.testing.assert_close(maps[HEADS[1]].sum(1), additive(model, IMAGES, CLASSES))
        assert (maps[HEADS[1]].sign() * maps[HEADS[0]] != 0).all()


def blobs(count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    truth = np.arange(count) % 3
    centres = np.array([[3.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]])
    return torch.from_numpy(centres[truth] + 0.3 * rng.normal(size=(count, 4))).float(), torch.from_numpy(truth)


def regions(directions: torch.Tensor, offsets: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    return (cells @ directions.T + offsets).argmax(1)


def test_clusters_are_found() -> None:
    cells, truth = blobs()
    controls = fit_controls(cells, torch.ones(len(cells), dtype=torch.bool), 3, seed=0)
    for name in (KMEANS, OBJECT_KMEANS):
        found = regions(*(each[0] for each in controls[name]), cells)
        assert len({(a, b) for a, b in zip(truth.tolist(), found.tolist(), strict=True)}) == 3
        centres = controls[name][0][0]
        nearest = torch.cdist(cells, centres).argmin(1)
        assert (nearest == found).all(), "the largest product plus offset is the nearest centre"
    assert controls[RANDOM][0].shape[1:] == (3, 4) and len({tuple(x.flatten().tolist()) for x in controls[RANDOM][0]}) > 1


def test_only_the_cells_of_the_object_are_clustered_where_it_is_known() -> None:
    cells, truth = blobs()
    controls = fit_controls(cells, truth == 1, 2, seed=0)
    assert (controls[OBJECT_KMEANS][0][0][:, 1] > 2).all() and (controls[KMEANS][0][0][:, 1] < 2).any()
    assert OBJECT_KMEANS not in fit_controls(cells, torch.zeros(len(cells), dtype=torch.bool), 2, seed=0)


def test_equal_cells_have_clusters_too() -> None:
    assert cluster(np.ones((5, 3)), 2, np.random.default_rng(0)).tolist() == [[1, 1, 1], [1, 1, 1]]
