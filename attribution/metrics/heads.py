"""Which heads of the attention matter for a class, and which separate two classes.

A head is switched off by making its attention uniform over the image: its values are then averaged over all cells, and what it
gains from attending to some of them is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from attribution.methods.hooks import fixed_features, logits_with_attention, uniform_attention
from attribution.resize import pool_to
from models import ICN

PLACES = 8  # cells of a side to which maps are averaged, at most


@torch.no_grad()
def head_scores(
    model: ICN, images: Tensor, target: Callable[[Tensor], Tensor], off: Sequence[int] = (), *, padding_mask: Tensor | None = None
) -> Tensor:
    """Return what each head of the last decoder layer adds to a target: `[B, heads]`, nan for those that are off.

    Args:
        images: normalised `[B, 3, H, W]`.
        target: of logits `[B, C]`, such as one of them: `[B]`.
        off: heads whose attention is uniform in all cases.

    Returns:
        The target with the attention of `off` uniform, less the target with that of the head uniform, too.

    Raises:
        ValueError: the decoder has no attention.
    """
    check_attention(model)
    heads = number_of_heads(model)

    def switched(which: Sequence[int]) -> Tensor:
        def replace(weights: Tensor, valid: Tensor | None) -> Tensor:
            return _replaced(weights, which, uniform_attention(weights, valid))

        return target(logits_with_attention(model, images, padding_mask, replacement=replace, layer=-1))

    with fixed_features(model, images):
        before = switched(off)
        columns = [torch.full_like(before, torch.nan) if h in off else before - switched([*off, h]) for h in range(heads)]
    return torch.stack(columns, 1)


@torch.no_grad()
def random_head_scores(model: ICN, images: Tensor, target: Callable[[Tensor], Tensor], seed: int = 0) -> Tensor:
    """Return what a head would add to a target if its attention were random (softmax of normal noise): `[B, heads]`.

    It is less what it adds with uniform attention: the control of `head_scores`.
    """
    check_attention(model)
    generator = torch.Generator().manual_seed(seed)
    columns = []
    with fixed_features(model, images):
        for head in range(number_of_heads(model)):

            def noise(weights: Tensor, valid: Tensor | None, head: int = head) -> Tensor:
                drawn = torch.randn(weights.shape, generator=generator).to(weights)
                return _replaced(weights, [head], drawn.softmax(-1))

            def even(weights: Tensor, valid: Tensor | None, head: int = head) -> Tensor:
                return _replaced(weights, [head], uniform_attention(weights, valid))

            pair = [target(logits_with_attention(model, images, replacement=each, layer=-1)) for each in (noise, even)]
            columns.append(pair[0] - pair[1])
    return torch.stack(columns, 1)


def check_attention(model: ICN) -> None:
    """Raise a ValueError for a decoder without attention."""
    if not model.num_decoder_layers:
        raise ValueError(f"the {model.decoder_name} decoder has no attention, so no heads: use a detr or additive decoder")


def number_of_heads(model: ICN) -> int:
    """Return the number of heads of the cross-attention."""
    decoder = model.transformer.decoder
    return int(decoder.layers[-1].multihead_attn.num_heads if model.decoder_spec.is_layered else decoder.num_heads)  # type: ignore


@dataclass(frozen=True)
class Ranking:
    """The heads of a class, the most important first.

    order: head indices. alone: mean drop of the logit with this head off. together: with this one and those before it off.
    """

    order: list[int]
    alone: list[float]
    together: list[float]


def rank_heads(scores: Callable[[Sequence[int]], Tensor]) -> Ranking:
    """Rank heads greedily: the next is the one without which the logit drops most, those before it being off.

    Args:
        scores: `head_scores` of the images under heads that are off, `[B, heads]`.
    """
    alone = scores(()).mean(0)
    order: list[int] = []
    together, total = [], 0.0
    while len(order) < len(alone):
        drops = alone if not order else scores(order).mean(0)
        head = int(drops.nan_to_num(nan=-torch.inf).argmax())
        total += float(drops[head])
        order.append(head)
        together.append(total)
    return Ranking(order, [float(alone[head]) for head in order], together)


def auroc(values: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each column of `[N, K]` for a bool `[N]`; ties count half (Mann, Whitney 1947)."""
    ranks = rankdata(values, axis=0)
    count = int(positive.sum())
    return (ranks[positive].sum(0) - count * (count + 1) / 2) / (count * (len(positive) - count))


def best_columns(values: np.ndarray, positive: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Return the columns that separate best, and their AUROC, chosen on the even images of each class and measured on the odd.

    A column that separates the other way round is as good: its AUROC is turned on both halves alike.
    """
    chosen = np.zeros(len(positive), bool)
    for group in (positive, ~positive):
        chosen[np.flatnonzero(group)[::2]] = True
    first, second = auroc(values[chosen], positive[chosen]), auroc(values[~chosen], positive[~chosen])
    order = np.argsort(-np.abs(first - 0.5), kind="stable")[:count]
    return [(int(column), float(second[column] if first[column] >= 0.5 else 1 - second[column])) for column in order]


def places(maps: Sequence[Tensor]) -> Tensor:
    """Average maps `[h, w]` of any grids over the cells of one grid of at most `PLACES` a side: `[N, rows, columns]`."""
    size = min(PLACES, *(each.shape[0] for each in maps)), min(PLACES, *(each.shape[1] for each in maps))
    return torch.cat([pool_to(each[None], size) for each in maps])


def _replaced(weights: Tensor, heads: Sequence[int], other: Tensor) -> Tensor:
    """Return weights `[B, heads, C, S]` with those of some heads replaced."""
    result = weights.clone()
    result[:, list(heads)] = other[:, list(heads)].to(weights.dtype)
    return result
