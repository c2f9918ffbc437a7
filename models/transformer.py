"""The transformer of ICN: an encoder over the cells of a feature map, and a decoder with one query per class.

DETR's transformer (Carion et al., ECCV 2020) with INTR's changes: the keys of the cross-attention carry no positional encoding,
and cross-attention weights are returned - only those of the requested layers; otherwise they are never computed.

B images, C classes, D channels, a feature map of h x w cells. `pre_norm`: layer norms before each block instead of after it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.architecture import ParameterError
from models.attention import Dropout, MultiheadAttention

QUERIES_AT_ONCE = 1024  # in evaluation; only the self-attention needs all queries at once


class EncoderLayer(nn.Module):
    """Self-attention over the cells, then a feed-forward block."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Map `src` `[B, h*w, D]` to `[B, h*w, D]`; `pos` is `[B or 1, h*w, D]`, `padding_mask` `[B, h*w]`."""
        # Self-attention
        x = self.norm1(src) if self.pre_norm else src
        q = k = x + pos
        src = src + self.dropout(self.self_attn(q, k, x, padding_mask)[0])
        src = src if self.pre_norm else self.norm1(src)
        # Feed-forward
        x = self.norm2(src) if self.pre_norm else src
        src = src + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
        return src if self.pre_norm else self.norm2(src)


class DecoderLayer(nn.Module):
    """Self-attention between the class queries, cross-attention to the cells, then a feed-forward block."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(
        self, tgt: Tensor, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Update the vectors of the classes.

        Args:
            tgt: the vectors, `[B or 1, C, D]`.
            query: class queries `[1, C, D]`, added to `tgt` as its positional encoding.
            memory: `[B, h*w, D]`.
            padding_mask: `[B, h*w]`, or None.
            grid: `(h, w)` to get the cross-attention weights; None not to compute them.

        Returns:
            The new `tgt` `[B, C, D]`, and the weights `[1, B, heads, C, h, w]` or None.
        """
        # Self-attention between the classes
        x = self.norm1(tgt) if self.pre_norm else tgt
        q = k = x + query
        tgt = tgt + self.dropout(self.self_attn(q, k, x)[0])  # [B or 1, C, D]
        tgt = tgt if self.pre_norm else self.norm1(tgt)

        # From here on no class depends on another: in evaluation they are updated in chunks, to save memory
        at_once = tgt.shape[1] if torch.is_grad_enabled() or grid is not None else QUERIES_AT_ONCE
        weights_shape = None if grid is None else (1, memory.shape[0], self.multihead_attn.num_heads, tgt.shape[1], *grid)
        updated = []
        chunks = zip(tgt.split(at_once, 1), query.split(at_once, 1), strict=True)
        for tgt, query in chunks:  # of n classes
            # Cross-attention to the image
            x = self.norm2(tgt) if self.pre_norm else tgt
            q = (x + query).expand(memory.shape[0], -1, -1)  # [B, n, D]
            x, weights = self.multihead_attn(q, memory, memory, padding_mask, grid is not None, weights_shape)
            tgt = tgt + self.dropout(x)  # [B, n, D]
            tgt = tgt if self.pre_norm else self.norm2(tgt)
            # Feed-forward
            x = self.norm3(tgt) if self.pre_norm else tgt
            tgt = tgt + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
            updated.append(tgt if self.pre_norm else self.norm3(tgt))
        return updated[0] if len(updated) == 1 else torch.cat(updated, 1), weights


class Encoder(nn.Module):
    """A stack of encoder layers, 0 or more; with `pre_norm` a last layer norm."""

    def __init__(self, num_layers: int, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        if num_layers < 0:
            raise ParameterError("enc_layers", f"{num_layers} must be 0 or more")
        self.layers = nn.ModuleList(EncoderLayer(d_model, nhead, dim_feedforward, dropout, pre_norm) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model) if pre_norm else None
        self.checkpointing = False

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            inputs = (src, pos, padding_mask)
            src = checkpoint(layer, *inputs, use_reentrant=False) if self.checkpointing and self.training else layer(*inputs)
        return src if self.norm is None else self.norm(src)


class QueryDecoder(nn.Module):
    """Base class of decoders: from class queries and encoder memory to a vector per class.

    Attributes:
        num_attention_layers: layers with a cross-attention, whose weights `forward` returns on request.
        checkpointing: recompute layers in the backward pass.
    """

    num_attention_layers: int = 0
    checkpointing: bool = False

    def forward(
        self, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int], attention_layers: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Decode all classes.

        Args:
            query: class queries `[C, D]`.
            memory: `[B, h*w, D]`.
            padding_mask: `[B, h*w]`, True on padding, or None.
            grid: `(h, w)`.
            attention_layers: layers whose cross-attention is returned.

        Returns:
            One vector per class `[B, C, D]`, and one `[1, B, heads, C, h, w]` per layer of `attention_layers`, in their order.
        """
        raise NotImplementedError

    def attention_weights(self, query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
        """Compute the cross-attention weights of `forward`, `[B, heads, Q, S]`: measurements of the attention replace this.

        Only a decoder with attention but no layers has this. `valid` is bool `[B, 1, 1, S]`, False on padding, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} has attention, but no attention_weights(query, key, valid)")

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Compute what each cell adds to the logits of Q classes per image; only additive decoders have this.

        Args:
            query, weight: queries and classifier weights of the classes, `[B, Q, D]`.
            memory: `[B, h*w, D]`.
            padding_mask: `[B, h*w]`, or None.

        Returns:
            float32 `[B, Q, h*w]`; its sum over the cells is the logit without the bias.
        """
        raise NotImplementedError


class Decoder(QueryDecoder):
    """DETR's decoder: a stack of decoder layers, 1 or more, and a last layer norm."""

    def __init__(self, num_layers: int, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        if num_layers < 1:
            raise ParameterError("dec_layers", f"{num_layers} must be 1 or more")
        self.layers = nn.ModuleList(DecoderLayer(d_model, nhead, dim_feedforward, dropout, pre_norm) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.dropout = dropout
        self.num_attention_layers = num_layers

    def forward(
        self, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int], attention_layers: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        # The target of the first self-attention is zero, so that its result is the same for every image: computed once,
        # and expanded to the batch by the first cross-attention - unless dropout is to differ between the images.
        shared = not self.training or self.dropout == 0
        tgt = torch.zeros_like(query).expand(1 if shared else memory.shape[0], -1, -1)  # [B or 1, C, D]
        returned = []
        for index, layer in enumerate(self.layers):
            inputs = (tgt, query[None], memory, padding_mask, grid if index in attention_layers else None)
            recompute = self.checkpointing and self.training
            tgt, weights = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
            if weights is not None:
                returned.append(weights)
        return self.norm(tgt), returned


class Transformer(nn.Module):
    """Encoder and decoder over a feature map; draws the weights of both (Glorot and Bengio, AISTATS 2010)."""

    def __init__(self, encoder: Encoder, decoder: QueryDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, src: Tensor, pos: Tensor, query: Tensor, padding_mask: Tensor | None = None, attention_layers: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode a feature map and decode all classes.

        Args:
            src: projected features `[B, D, h, w]`.
            pos: positional encoding `[B or 1, D, h, w]`.
            query: class queries `[C, D]`.
            padding_mask: bool `[B, h, w]`, True on padding, or None.
            attention_layers: decoder layers whose cross-attention is returned.

        Returns:
            One vector per class `[B, C, D]`, the encoder memory `[B, D, h, w]`, and one `[1, B, heads, C, h, w]` per layer.
        """
        grid = (src.shape[-2], src.shape[-1])
        mask = None if padding_mask is None else padding_mask.flatten(1)  # [B, h*w]
        tokens = src.flatten(2).transpose(1, 2)  # [B, h*w, D]
        memory = self.encoder(tokens, pos.flatten(2).transpose(1, 2).to(tokens.dtype), mask)  # [B, h*w, D]
        decoded, weights = self.decoder(query, memory, mask, grid, attention_layers)
        return decoded, memory.transpose(1, 2).unflatten(2, grid), weights
