"""Metrics on parts, on tables and importances whose scores are known by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from attribution.planes.ground_truth import RemovalTable
from attribution.planes.parts import (
    curve_area,
    part_importance,
    part_order,
    rank_agreement,
    removal_curve,
    removal_steps,
    single_deletion,
    target_sensitivity,
    top_k_checks,
)

WEIGHTS = torch.tensor([4.0, 2.0, 1.0])  # what each part adds to the logit of class 0; class 1 has 2.5
THREE = torch.tensor([True, True, True])


def table(present: torch.Tensor = THREE, weights: torch.Tensor = WEIGHTS) -> RemovalTable:
    """One picture of a classifier that adds up the parts that it sees."""
    logits = torch.empty(1, 8, 2)
    for subset in range(8):
        removed = torch.tensor([bool(subset >> i & 1) for i in range(3)])
        logits[0, subset] = torch.tensor([float((weights * (present & ~removed)).sum()), 2.5])
    return RemovalTable(("nose", "engines", "tail"), present[None], logits)


CLASS = torch.tensor([0])


def test_table_is_looked_up_by_what_is_removed():
    rows = table()
    removed = torch.tensor([[[False, False, False], [True, False, False], [False, True, True], [True, True, True]]])
    assert rows.logits_without(removed)[0, :, 0].tolist() == [7, 3, 4, 0]
    assert rows.logits_without(removed[:, 1]).tolist() == [[3, 2.5]]
    assert rows.drops(CLASS).tolist() == [[4, 2, 1]] and rows.drops(torch.tensor([1])).tolist() == [[0, 0, 0]]


def test_importance_is_the_share_of_the_mass():
    masks = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    masks[0, 0, 0], masks[0, 1, 1:3] = True, True
    maps = torch.tensor([3.0, 1.0, -1.0, 0.0])[:, None].expand(1, 4, 4)
    assert part_importance(maps, masks).tolist() == [[0.75, 0, 0]]
    assert torch.allclose(part_importance(5 * maps, masks), part_importance(maps, masks))
    assert part_importance(-maps.abs(), masks)[0] == pytest.approx(torch.tensor([-0.6, -0.4, 0]))
    assert part_importance(0 * maps, masks).tolist() == [[0, 0, 0]]
    assert part_importance(torch.ones(1, 2, 2), masks)[0] == pytest.approx(torch.tensor([0.25, 0.5, 0]))


@pytest.mark.parametrize(
    ("importance", "score"),
    [([0.5, 0.3, 0.1], 1), ([0.1, 0.3, 0.5], 0), ([0.3, 0.5, 0.1], 0.75), ([0.2, 0.2, 0.2], 0.5), ([9, 0.3, -1], 1)],
)
def test_single_deletion(importance, score):
    assert single_deletion(torch.tensor([importance]), table(), CLASS).tolist() == pytest.approx([score])


def test_rank_agreement_leaves_out_what_is_absent_or_undefined():
    drops, importance = torch.tensor([[4.0, 2.0, 1.0, 9.0]]).repeat(3, 1), torch.tensor([[4.0, 2.0, 1.0, 0.0]]).repeat(3, 1)
    drops[1] = 1.0
    valid = torch.tensor([[True, True, True, False]] * 2 + [[True, False, False, False]])
    scores = rank_agreement(importance, drops, valid)
    assert scores[0] == 1 and scores[1:].isnan().all()


def test_preservation_and_deletion_checks_keep_or_remove_the_first_parts():
    """Class 0 stays predicted while more than 2.5 of its 7 are left: with the nose, or with both others."""
    right, wrong = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    assert [score.tolist() for score in top_k_checks(right, table())] == [[1.0], [0.5]]  # the nose alone can be missed
    assert [score.tolist() for score in top_k_checks(wrong, table())] == [[0.5], [0.0]]
    everything = torch.ones(1, 3)  # calling all parts important gains nothing
    assert all(0 <= score <= 1 for score in top_k_checks(everything, table()))
    alone = table(torch.tensor([True, False, False]))
    assert all(score.isnan().all() for score in top_k_checks(right, alone))


def test_order_puts_absent_parts_last_and_breaks_ties_evenly():
    present = torch.tensor([[True, False, True]])
    assert part_order(torch.tensor([[0.1, 9.0, -0.5]]), present).tolist() == [[0, 2, 1]]
    assert part_order(torch.tensor([[0.1, 9.0, -0.5]]), present, descending=False).tolist() == [[2, 0, 1]]
    ties = part_order(torch.zeros(3000, 3), torch.ones(3000, 3, dtype=torch.bool))
    assert {tuple(row) for row in ties.tolist()} == set(itertools.permutations(range(3)))
    assert (torch.bincount(ties[:, 0]) / 3000).numpy() == pytest.approx(1 / 3, abs=0.05)
    assert removal_steps(torch.tensor([[2, 0, 1]])).tolist() == [
        [[False] * 3, [False, False, True], [True, False, True], [True] * 3]
    ]


def test_curves_and_their_area():
    right, wrong = WEIGHTS[None], -WEIGHTS[None]

    def p(logit: float) -> float:
        return float(torch.tensor([logit, 2.5]).softmax(0)[0])

    deletion = removal_curve(right, table(), CLASS)
    assert deletion[0].tolist() == pytest.approx([p(7), p(3), p(1), p(0)])
    insertion = removal_curve(right, table(), CLASS, insert=True)
    assert insertion[0].tolist() == pytest.approx([p(0), p(4), p(6), p(7)])
    least_first = removal_curve(right, table(), CLASS, descending=False)
    assert least_first[0].tolist() == pytest.approx([p(7), p(6), p(4), p(0)])
    assert torch.equal(removal_curve(wrong, table(), CLASS), least_first)
    assert curve_area(deletion).item() == pytest.approx((p(7) / 2 + p(3) + p(1) + p(0) / 2) / 3)
    assert curve_area(insertion) > curve_area(removal_curve(wrong, table(), CLASS, insert=True))


def test_curves_end_with_the_last_part_that_is_there():
    two = table(torch.tensor([True, False, True]))
    curve = removal_curve(torch.tensor([[1.0, 5.0, 2.0]]), two, CLASS)
    assert curve.isnan().tolist() == [[False, False, False, True]]
    assert curve_area(curve).item() == pytest.approx(float(curve[0, [0, 1, 1, 2]].sum()) / 4)
    assert curve_area(torch.tensor([[0.5, torch.nan]])).isnan().all()


def test_target_sensitivity():
    mass = torch.tensor([[[0.6, 0.1], [0.2, 0.5]], [[0.2, 0.5], [0.6, 0.1]], [[0.6, 0.6], [0.2, 0.5]], [[0.3, 0.3], [0.3, 0.3]]])
    assert target_sensitivity(mass, torch.ones(4, dtype=torch.bool)).tolist() == [1, 0, 0.5, 0]
    assert target_sensitivity(mass, torch.zeros(4, dtype=torch.bool)).isnan().all()
