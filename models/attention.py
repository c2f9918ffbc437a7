"""Multi-head attention that returns its weights only on request, and dropout that is fast on a CPU too.

Parameter names and initialisation are those of torch.nn.MultiheadAttention, so that DETR's and INTR's files load.
Two paths give the same numbers: a fused kernel that never holds the weights, and an explicit softmax that returns them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.architecture import ParameterError

CPU_WEIGHTS = 2**23  # largest number of attention weights held at once on a CPU in training with dropout (32 MiB)
DROPOUT_LEVELS = 2**16  # 16 random bits per value, so that on a CPU the probability is rounded to a multiple of 1/65536


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2), batch first.

    `num_heads` must divide `embed_dim`; `dropout` is the probability with which an attention weight is dropped in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        weights_shape: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the attention of `query` to `key`, and the sums of `value` weighted by it.

        Args:
            query: `[B, N, D]`.
            key, value: `[B, S, D]`.
            key_padding_mask: bool `[B, S]`, True where a key is padding; every row needs at least one valid key.
            need_weights: also return the weights, which must be held for it.
            weights_shape: shape in which they are returned, such as one with the key axis unfolded to an image grid.

        Returns:
            Output `[B, N, D]`, and the weights `[B, heads, N, S]` (or in `weights_shape`) or None. The weights are those
            before dropout, so that their rows sum to 1; the output is computed from them, so that gradients reach them.
        """
        q, k, v = (split_heads(x, self.num_heads) for x in self._project(query, key, value))  # [B, heads, N or S, d]
        valid = None if key_padding_mask is None else ~key_padding_mask[:, None, None, :]  # [B, 1, 1, S]
        p = self.dropout if self.training else 0.0
        if need_weights:
            out, weights = _explicit_attention(q, k, v, valid, p, weights_shape)
        else:
            out, weights = _fused_attention(q, k, v, valid, p), None  # [B, heads, N, d]
        return self.out_proj(join_heads(out)), weights  # [B, N, D]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three input projections; those of equal inputs are one matrix product."""
        weight, bias, d = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        if query is key:
            q, k = F.linear(query, weight[: 2 * d], bias[: 2 * d]).chunk(2, dim=-1)
            return q, k, F.linear(value, weight[2 * d :], bias[2 * d :])
        q = F.linear(query, weight[:d], bias[:d])
        if key is value:
            k, v = F.linear(key, weight[d:], bias[d:]).chunk(2, dim=-1)
            return q, k, v
        return q, F.linear(key, weight[d : 2 * d], bias[d : 2 * d]), F.linear(value, weight[2 * d :], bias[2 * d :])


def check_heads(width: int, num_heads: int) -> None:
    """Raise a ParameterError if `num_heads` does not divide `width`."""
    if num_heads < 1 or width % num_heads:
        raise ParameterError("nheads", f"num_heads {num_heads} must divide hidden_dim {width}")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # [B, N, D] -> [B, heads, N, d]


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [B, heads, N, d] -> [B, N, D]


def softmax_weights(q: Tensor, k: Tensor, valid: Tensor | None) -> Tensor:
    """Return the attention weights `[B, heads, N, S]`, 0 where not `valid`, in float32 or wider (Vaswani et al. 2017, eq. 1)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if valid is not None:
        scores = scores.masked_fill(~valid, float("-inf"))
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _explicit_attention(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, p: float, shape: tuple[int, ...] | None
) -> tuple[Tensor, Tensor]:
    """Return the output `[B, heads, N, d]`, and the weights before dropout in `shape`."""
    with torch.autocast(q.device.type, enabled=False):  # the weights are a result: in float32 whatever the autocast type is
        weights = softmax_weights(q.float(), k.float(), valid)  # [B, heads, N, S]
        returned = weights.view(shape or weights.shape)
        # Computed from the tensor that is returned: a view taken afterwards would have no gradient of the output.
        return dropout(returned.view(weights.shape), p).to(v.dtype) @ v, returned


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, p: float) -> Tensor:
    """Return the output `[B, heads, N, d]` without holding the weights; the CPU has no such kernel with dropout."""
    if p == 0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=valid, dropout_p=p)
    if q.shape[:-1].numel() * k.shape[-2] <= CPU_WEIGHTS:
        return _cpu_dropout_attention(q, k, v, valid, p)
    outputs = []
    for i in range(max(len(q), len(k))):  # image by image, and computed again in the backward pass
        image = [x if x is None or len(x) == 1 else x[i : i + 1] for x in (q, k, v, valid)]
        outputs.append(checkpoint(_cpu_dropout_attention, *image, p, use_reentrant=False))
    return torch.cat(outputs)


def _cpu_dropout_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, p: float) -> Tensor:
    return dropout(softmax_weights(q, k, valid).to(v.dtype), p) @ v


def dropout(x: Tensor, p: float) -> Tensor:
    """Set each value to 0 with probability `0 <= p < 1`, else divide it by 1 - p (Srivastava et al., JMLR 2014, section 4).

    On a CPU torch's random mask costs more than the matrix products around it.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # there the mask is drawn in the kernel that uses it
        return F.dropout(x, p)
    dropped = min(round(p * DROPOUT_LEVELS), DROPOUT_LEVELS - 1)
    if dropped == 0:
        return x
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits; torch's own generator
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - DROPOUT_LEVELS // 2
    return (x * kept).mul_(DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped))


class Dropout(nn.Dropout):
    """torch.nn.Dropout by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:  # the name of torch's own
        return dropout(input, self.p) if self.training and self.p > 0 else input
