"""Decoders whose logit is a sum over the cells of the map, so that the map is the logit.

Nothing stands between what a class found at a place and its score: no residual, no norm, no feed-forward, and no class
talks to another. What is explained is what was computed.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformer import QUERIES_AT_ONCE


class AdditiveDecoder(nn.Module):
    """One class-specific cross-attention whose values are scored where they lie.

    With class queries q_c, memory m_p and heads h: `A[c,h,p] = softmax_p(q_c,h . K_h m_p / sqrt(d))` and
    `logit_c = b + sum_p sum_h A[c,h,p] <w_c,h, V_h m_p>`. The inner sum over the heads is the map of class c.

    Args:
        d_model: width D of memory and queries.
        nhead: heads; must divide `d_model`.

    Raises:
        ValueError: `nhead` does not divide `d_model`.
    """

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        if nhead < 1 or d_model % nhead:
            raise ValueError(f"--nheads {nhead} must be a divisor of --hidden_dim {d_model}")
        self.num_heads = nhead
        self.norm = nn.LayerNorm(d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.checkpointing = False

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
        attention_layers: Collection[int],
    ) -> tuple[Tensor, list[Tensor]]:
        """`query` `[C, D]`, `memory` `[B, h*w, D]`; returns what each class found `[B, C, D]`, and its attention if asked for."""
        key, value, valid = self._read(memory, padding_mask)
        if 0 in attention_layers:
            attention = self._attention(query[None], key, valid).unflatten(-1, grid)[None]  # [1, B, heads, C, h, w]
            # Read back from what is returned, so that the gradient of a logit reaches it.
            return self._join(attention[0].flatten(-2).to(value.dtype) @ value), [attention]
        at_once = len(query) if torch.is_grad_enabled() else QUERIES_AT_ONCE
        q = self._split(query.to(key.dtype)[None]).expand(len(memory), -1, -1, -1)  # [B, heads, C, d]
        found = [F.scaled_dot_product_attention(part, key, value, attn_mask=valid) for part in q.split(at_once, 2)]
        return self._join(torch.cat(found, 2)), []

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        """What each cell adds to the logits of some classes.

        Args:
            query, weight: queries and class weights of Q classes per image, `[B, Q, D]`.
            memory: `[B, S, D]`.
            padding_mask: `[B, S]`, or None.

        Returns:
            float32 `[B, Q, S]`; its sum over S is the logit without the bias.
        """
        key, value, valid = self._read(memory, padding_mask)
        attention = self._attention(query, key, valid)  # [B, heads, Q, S]
        with torch.autocast(memory.device.type, enabled=False):
            scores = self._split(weight.float()) @ value.float().transpose(-2, -1)  # [B, heads, Q, S]
            return (attention * scores).sum(1)

    def _read(self, memory: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        memory = self.norm(memory)
        valid = None if padding_mask is None else ~padding_mask[:, None, None, :]  # [B, 1, 1, S]
        return self._split(self.key(memory)), self._split(self.value(memory)), valid

    def _attention(self, query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
        with torch.autocast(key.device.type, enabled=False):
            q = self._split(query.float())
            scores = (q * q.shape[-1] ** -0.5) @ key.float().transpose(-2, -1)  # [B, heads, Q, S]
            return (scores if valid is None else scores.masked_fill(~valid, float("-inf"))).softmax(-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]

    @staticmethod
    def _join(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # [B, N, D]


class AverageDecoder(nn.Module):
    """No attention at all: the control. Every class reads the mean of the memory; its map is CAM (Zhou et al., CVPR 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpointing = False

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
        attention_layers: Collection[int],
    ) -> tuple[Tensor, list[Tensor]]:
        """As `AdditiveDecoder.forward`: `[B, C, D]`, and never any attention."""
        share = self._share(memory, padding_mask)
        return (share[:, None] @ memory).expand(-1, len(query), -1), []

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        """As `AdditiveDecoder.evidence`."""
        with torch.autocast(memory.device.type, enabled=False):
            return weight.float() @ memory.float().transpose(-2, -1) * self._share(memory.float(), padding_mask)[:, None]

    @staticmethod
    def _share(memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        """The weight of each cell in the mean, `[B, S]`."""
        valid = memory.new_ones(memory.shape[:2]) if padding_mask is None else (~padding_mask).to(memory.dtype)
        return valid / valid.sum(1, keepdim=True)


class ClassWeights(nn.Module):
    """A linear score of its own for every class: `[B, C, D]` to `[B, C]`."""

    def __init__(self, num_classes: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, d_model).normal_(std=d_model**-0.5))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, answers: Tensor) -> Tensor:
        return torch.einsum("bcd,cd->bc", answers, self.weight.to(answers.dtype)) + self.bias
