"""Scores of maps of two classes in one picture."""

from __future__ import annotations

import torch

from attribution.metrics.localisation import pair_scores


def test_scores_of_maps_known_by_hand() -> None:
    masks = torch.zeros(1, 2, 4, 8, dtype=torch.bool)
    masks[0, 0, :, :2] = True
    masks[0, 1, :, 6:] = True
    right, swapped, constant = masks.float(), masks.flip(1).float(), torch.ones(1, 2, 4, 8)
    mixed = right + 0.5 * swapped - 0.25 * (right + swapped == 0)
    scores = pair_scores(torch.cat([right, swapped, constant, mixed]), masks.expand(4, -1, -1, -1))
    expected = {
        "own_hit": [1, 0, 0, 1],
        "other_hit": [0, 1, 0, 0],
        "own_energy": [1, 0, 0.25, 2 / 3],
        "other_energy": [0, 1, 0.25, 1 / 3],
        "own_area": [0.25] * 4,
        "other_area": [0.25] * 4,
    }
    assert set(scores) == set(expected)
    for name, values in expected.items():
        assert torch.allclose(scores[name], torch.tensor(values)[:, None].expand(4, 2).float()), name
