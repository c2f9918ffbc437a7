"""Class specificity: maps of two classes in a picture that holds an object of each."""

from __future__ import annotations

from torch import Tensor

from attribution.metrics.localisation import energy, pointing


def pair_scores(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Compute how much of each class's map lies on its own object and on the other one.

    Args:
        maps: of the classes A and B, `[N, 2, h, w]`.
        masks: of the objects of A and B, bool `[N, 2, H, W]`.

    Returns:
        `[N, 2]` each, for the map of A and that of B: `own_hit` and `other_hit`, whether the peak lies on the object;
        `own_energy` and `other_energy`, the share of the positive mass on it; `own_area` and `other_area`, the share of the
        picture that the object covers, which is the energy of a constant map.
    """
    scores = {}
    for name, targets in (("own", masks), ("other", masks.flip(1))):
        scores[f"{name}_hit"] = pointing(maps.flatten(0, 1), targets.flatten(0, 1)).view(-1, 2)
        scores[f"{name}_energy"] = energy(maps.flatten(0, 1), targets.flatten(0, 1)).view(-1, 2)
        scores[f"{name}_area"] = targets.sum((-2, -1)) / masks[0, 0].numel()
    return scores
