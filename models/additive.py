"""Additive decoders: the logit of a class is a sum over the cells of the feature map, and its terms are the attribution map.

Between the attention and the score there is no residual connection, norm or feed-forward, and no self-attention between the
classes: the map explains the logit exactly.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import check_heads, join_heads, softmax_weights, split_heads
from models.transformer import QUERIES_AT_ONCE, QueryDecoder


class AdditiveDecoder(QueryDecoder):
    """One cross-attention per class whose values are scored cell by cell.

    With class queries q_c, memory m_p and heads h: `A[c,h,p] = softmax_p(q_c,h . K_h m_p / sqrt(d))` and
    `logit_c = b + sum_p sum_h A[c,h,p] <w_c,h, V_h m_p>`. The inner sum over the heads is the map of class c.
    """

    num_attention_layers = 1

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        check_heads(d_model, nhead)
        self.num_heads = nhead
        self.norm = nn.LayerNorm(d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)

    def forward(
        self, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int], attention_layers: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        key, value, valid = self._project(memory, padding_mask)
        if 0 in attention_layers:
            attention = self.attention_weights(query[None], key, valid).unflatten(-1, grid)[None]  # [1, B, heads, C, h, w]
            # Computed from the tensor that is returned, so that it has a gradient of the logits.
            return join_heads(attention[0].flatten(-2).to(value.dtype) @ value), [attention]
        at_once = len(query) if torch.is_grad_enabled() else QUERIES_AT_ONCE
        q = split_heads(query.to(key.dtype)[None], self.num_heads).expand(memory.shape[0], -1, -1, -1)  # [B, heads, C, d]
        chunks = [F.scaled_dot_product_attention(chunk, key, value, attn_mask=valid) for chunk in q.split(at_once, 2)]
        return join_heads(torch.cat(chunks, 2)), []

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        key, value, valid = self._project(memory, padding_mask)
        attention = self.attention_weights(query, key, valid)  # [B, heads, Q, S]
        with torch.autocast(memory.device.type, enabled=False):
            scores = split_heads(weight.float(), self.num_heads) @ value.float().transpose(-2, -1)  # [B, heads, Q, S]
            return (attention * scores).sum(1)

    def _project(self, memory: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values `[B, heads, S, d]`, and which of them are no padding `[B, 1, 1, S]`."""
        memory = self.norm(memory)
        valid = None if padding_mask is None else ~padding_mask[:, None, None, :]
        return split_heads(self.key(memory), self.num_heads), split_heads(self.value(memory), self.num_heads), valid

    def attention_weights(self, query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
        # query [B or 1, Q, D], key [B, heads, S, d]
        with torch.autocast(key.device.type, enabled=False):
            return softmax_weights(split_heads(query.float(), self.num_heads), key.float(), valid)


class AverageDecoder(QueryDecoder):
    """Average pooling, the control without attention: every class scores the mean of the memory (CAM, Zhou et al., CVPR 2016)."""

    def forward(
        self, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int], attention_layers: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        share = _cell_weights(memory, padding_mask)
        return (share[:, None] @ memory).expand(-1, len(query), -1), []

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        with torch.autocast(memory.device.type, enabled=False):
            memory = memory.float()
            share = _cell_weights(memory, padding_mask)
            return weight.float() @ memory.transpose(-2, -1) * share[:, None]  # [B, Q, S]


def _cell_weights(memory: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Return the weight of each cell in the mean over the valid cells, `[B, S]`."""
    valid = memory.new_ones(memory.shape[:2]) if padding_mask is None else (~padding_mask).to(memory.dtype)
    return valid / valid.sum(1, keepdim=True)


class ClassWeights(nn.Module):
    """A linear classifier with a weight per class for a vector per class: `[B, C, D]` to `[B, C]`."""

    def __init__(self, num_classes: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, d_model).normal_(std=d_model**-0.5))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bcd,cd->bc", x, self.weight.to(x.dtype)) + self.bias
