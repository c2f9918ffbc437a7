"""Importance of heads: what switching one off changes, the greedy order, and the separation of two classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attribution.metrics import heads as metric
from flags import get_args_parser
from models import ICN, build_model
from util.cli import parse

TINY = "--backbone test_resnet --hidden_dim 16 --nheads 4 --enc_layers 0 --dim_feedforward 16 --num_queries 3 --image_size 64"
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def tiny(decoder: str, *more: str) -> ICN:
    torch.manual_seed(0)
    layers = ["--dec_layers", "2"] if decoder == "detr" else []
    flags = [*TINY.split(), "--decoder", decoder, "--backbone_norm", "frozen", *layers, *more]
    return build_model(parse(get_args_parser(), flags)).eval()


@pytest.mark.parametrize("decoder", ["detr", "additive"])
def test_a_head_without_any_use_of_its_place_scores_zero_and_the_model_is_left_as_it_was(decoder: str) -> None:
    model = tiny(decoder)
    before = model(IMAGES).logits
    scores = metric.head_scores(model, IMAGES, lambda logits: logits[:, 1])
    assert scores.shape == (2, 4) and (scores.abs() > 0).all()
    torch.testing.assert_close(model(IMAGES).logits, before)
    with torch.no_grad():  # attention of the second head is uniform whatever it sees
        attention = model.transformer.decoder.layers[-1].multihead_attn if decoder == "detr" else None
        if attention is not None:
            attention.in_proj_weight[4:8] = 0
            attention.in_proj_bias[4:8] = 0
        else:
            model.transformer.decoder.key.weight[4:8] = 0
    flat = metric.head_scores(model, IMAGES, lambda logits: logits[:, 1])
    torch.testing.assert_close(flat[:, 1], torch.zeros(2), atol=1e-6, rtol=0)


def test_scores_of_an_additive_decoder_are_its_evidence_less_that_under_uniform_attention() -> None:
    """Without interaction of the heads, all of them off together drop by the sum of their drops."""
    model = tiny("additive")
    scores = metric.head_scores(model, IMAGES, lambda logits: logits[:, 0])
    last = metric.head_scores(model, IMAGES, lambda logits: logits[:, 0], off=[0, 1, 2])
    torch.testing.assert_close(last[:, 3], scores[:, 3])
    assert last[:, :3].isnan().all()
    ranking = metric.rank_heads(lambda off: metric.head_scores(model, IMAGES, lambda logits: logits[:, 0], off))
    assert ranking.alone == sorted(ranking.alone, reverse=True)
    assert ranking.together[-1] == pytest.approx(float(scores.sum(1).mean()), abs=1e-5)


def test_greedy_order_takes_interaction_into_account() -> None:
    table = {(): [3.0, 2.0, 1.0], (0,): [np.nan, 0.0, 5.0], (0, 2): [np.nan, 1.0, np.nan]}
    ranking = metric.rank_heads(lambda off: torch.tensor([table[tuple(off)]]))
    assert ranking.order == [0, 2, 1] and ranking.alone == [3, 1, 2] and ranking.together == [3, 8, 9]


def test_auroc_counts_pairs_and_halves_ties() -> None:
    values = np.array([[3.0, 1], [2, 1], [1, 1], [2, 1]])
    positive = np.array([True, True, False, False])
    np.testing.assert_allclose(metric.auroc(values, positive), [(1 + 1 + 1 + 0.5) / 4, 0.5])


def test_columns_are_chosen_on_one_half_and_measured_on_the_other() -> None:
    rng = np.random.default_rng(0)
    positive = np.repeat([True, False], 100)
    values = rng.normal(size=(200, 50))
    values[:, 7] += 3 * positive
    values[:, 9] -= 3 * positive
    best = metric.best_columns(values, positive, 3)
    assert {column for column, _ in best[:2]} == {7, 9} and all(value > 0.95 for _, value in best[:2])
    assert best[2][1] < 0.65  # the best of 48 columns of noise is chance on the other half


def test_a_random_head_is_nothing_without_attention() -> None:
    with pytest.raises(ValueError, match="average decoder has no attention"):
        metric.head_scores(tiny("average"), IMAGES, lambda logits: logits[:, 0])
    model = tiny("detr")
    same = [metric.random_head_scores(model, IMAGES, lambda logits: logits[:, 0], seed=1) for _ in range(2)]
    torch.testing.assert_close(*same)
    assert same[0].shape == (2, 4)
