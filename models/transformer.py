"""The transformer of ICN: an encoder over image locations, a decoder in which one query per class searches them.

It is DETR's transformer with INTR's changes: the keys of the cross-attention carry no positional encoding, and the
cross-attention weights are returned - here only those of the layers that are asked for, and never computed otherwise.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import MultiheadAttention
from models.dropout import Dropout

QUERIES_AT_ONCE = 1024  # in evaluation queries only meet in self-attention: the rest needs no memory for all of them


class Layer(nn.Module):
    """What encoder and decoder layers share; each makes its modules itself, under DETR's names and in DETR's order."""

    linear1: nn.Linear
    linear2: nn.Linear
    dropout: Dropout

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class EncoderLayer(Layer):
    """Self-attention over the image, then the feed-forward; normalised after each step, or before with `pre_norm`."""

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
        """`src` `[B, S, D]`, `pos` `[B or 1, S, D]`, `padding_mask` `[B, S]`; returns `[B, S, D]`."""
        if self.pre_norm:
            x = self.norm1(src)
            src = src + self._attend(x, pos, padding_mask)
            return src + self.feed_forward(self.norm2(src))
        src = self.norm1(src + self._attend(src, pos, padding_mask))
        return self.norm2(src + self.feed_forward(src))

    def _attend(self, x: Tensor, pos: Tensor, padding_mask: Tensor | None) -> Tensor:
        q = k = x + pos
        return self.dropout(self.self_attn(q, k, x, padding_mask)[0])


class DecoderLayer(Layer):
    """The class queries talk to each other, search the image, and digest what they found."""

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
        """`tgt` `[B or 1, C, D]`, `query` `[1, C, D]`, `memory` `[B, h*w, D]`.

        Returns the target `[B, C, D]`, and the cross-attention `[1, B, heads, C, h, w]` if a `grid` `(h, w)` asks for it.
        """
        tgt = tgt + self._talk(self.norm1(tgt), query) if self.pre_norm else self.norm1(tgt + self._talk(tgt, query))
        if torch.is_grad_enabled() or grid is not None or tgt.shape[1] <= QUERIES_AT_ONCE:
            return self._look(tgt, query, memory, padding_mask, grid)
        pieces = zip(tgt.split(QUERIES_AT_ONCE, 1), query.split(QUERIES_AT_ONCE, 1), strict=True)
        return torch.cat([self._look(*piece, memory, padding_mask, None)[0] for piece in pieces], 1), None

    def _look(
        self, tgt: Tensor, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """What each query does on its own: search and digest."""
        found, weights = self._search(self.norm2(tgt) if self.pre_norm else tgt, query, memory, padding_mask, grid)
        if self.pre_norm:
            tgt = tgt + found
            return tgt + self.feed_forward(self.norm3(tgt)), weights
        tgt = self.norm2(tgt + found)
        return self.norm3(tgt + self.feed_forward(tgt)), weights

    def _talk(self, tgt: Tensor, query: Tensor) -> Tensor:
        q = k = tgt + query
        return self.dropout(self.self_attn(q, k, tgt)[0])

    def _search(
        self, tgt: Tensor, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        q = (tgt + query).expand(len(memory), -1, -1)
        shape = None if grid is None else (1, len(memory), self.multihead_attn.num_heads, q.shape[1], *grid)
        found, weights = self.multihead_attn(q, memory, memory, padding_mask, grid is not None, shape)
        return self.dropout(found), weights


class Encoder(nn.Module):
    """A stack of encoder layers; with `pre_norm` a last normalisation."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.checkpointing = False

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            if self.checkpointing and self.training:
                src = checkpoint(layer, src, pos, padding_mask, use_reentrant=False)
            else:
                src = layer(src, pos, padding_mask)
        return src if self.norm is None else self.norm(src)


class Decoder(nn.Module):
    """A stack of decoder layers and a last normalisation."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.dropout = layers[0].dropout.p
        self.checkpointing = False

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
        attention_layers: Collection[int],
    ) -> tuple[Tensor, list[Tensor]]:
        """`query` `[C, D]`; returns the answers `[B, C, D]` and the weights of `attention_layers`, in layer order."""
        # The target of the first self-attention is zero, so that its result is the same for every image: computed once,
        # and spread over the batch by the first cross-attention - unless dropout is to differ between the images.
        shared = not self.training or self.dropout == 0
        tgt = torch.zeros_like(query).expand(1 if shared else len(memory), -1, -1)
        kept = []
        for index, layer in enumerate(self.layers):
            inputs = (tgt, query[None], memory, padding_mask, grid if index in attention_layers else None)
            if self.checkpointing and self.training:
                tgt, weights = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                tgt, weights = layer(*inputs)
            if weights is not None:
                kept.append(weights)
        return self.norm(tgt), kept


class Transformer(nn.Module):
    """Encoder and decoder over a feature grid.

    Raises:
        ValueError: a depth out of range (`enc_layers >= 0`, `dec_layers >= 1`) or `nhead` no divisor of `d_model`.

    `decoder` replaces DETR's, of `dec_layers` layers, by another one.
    """

    def __init__(
        self,
        d_model: int = 256,
        nhead: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if enc_layers < 0 or (decoder is None and dec_layers < 1):
            raise ValueError(f"--enc_layers {enc_layers} must be 0 or more, --dec_layers {dec_layers} must be 1 or more")
        shape = (d_model, nhead, dim_feedforward, dropout, pre_norm)
        self.encoder = Encoder([EncoderLayer(*shape) for _ in range(enc_layers)], nn.LayerNorm(d_model) if pre_norm else None)
        self.decoder = decoder or Decoder([DecoderLayer(*shape) for _ in range(dec_layers)], nn.LayerNorm(d_model))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        pos: Tensor,
        query: Tensor,
        padding_mask: Tensor | None = None,
        attention_layers: Collection[int] = (),
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Search a feature grid for every class.

        Args:
            src: projected features `[B, D, h, w]`.
            pos: positional encoding `[B or 1, D, h, w]`.
            query: class queries `[C, D]`.
            padding_mask: bool `[B, h, w]`, True on padding, or None.
            attention_layers: decoder layers whose cross-attention is returned.

        Returns:
            The queries' answers `[B, C, D]`, the encoder memory `[B, D, h, w]`, and one `[1, B, heads, C, h, w]` per layer.
        """
        grid = (src.shape[-2], src.shape[-1])
        mask = None if padding_mask is None else padding_mask.flatten(1)  # [B, h*w]
        memory = self.encode(src, pos, mask)
        answers, weights = self.decoder(query, memory, mask, grid, attention_layers)
        return answers, memory.transpose(1, 2).unflatten(2, grid), weights

    def encode(self, src: Tensor, pos: Tensor, padding_mask: Tensor | None) -> Tensor:
        """The memory `[B, h*w, D]` of projected features `[B, D, h, w]`; `padding_mask` is `[B, h*w]`."""
        tokens = src.flatten(2).transpose(1, 2)  # [B, h*w, D]
        return self.encoder(tokens, pos.flatten(2).transpose(1, 2).to(tokens.dtype), padding_mask)
