"""DETR's transformer with INTR's decoder: the weights of every cross-attention are kept, and averaged by a second one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor) -> Tensor:
        """`src` and `pos` `[S, B, D]`, `padding_mask` `[B, S]`."""
        x = self.norm1(src) if self.pre_norm else src
        src = src + self.dropout(self.self_attn(x + pos, x + pos, x, key_padding_mask=padding_mask)[0])
        x = src = src if self.pre_norm else self.norm1(src)
        x = self.norm2(x) if self.pre_norm else x
        src = src + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
        return src if self.pre_norm else self.norm2(src)


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.multihead_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, tgt: Tensor, memory: Tensor, query: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`tgt` and `query` `[C, B, D]`, `memory` `[S, B, D]`.

        Returns the target, the weights `[B, heads, C, S]` and their mean over the heads `[B, C, S]`.
        """
        x = self.norm1(tgt) if self.pre_norm else tgt
        tgt = tgt + self.dropout(self.self_attn(x + query, x + query, x)[0])
        tgt = tgt if self.pre_norm else self.norm1(tgt)
        x = self.norm2(tgt) if self.pre_norm else tgt
        search = {"query": x + query, "key": memory, "value": memory, "key_padding_mask": padding_mask}
        found, weights = self.multihead_attn(**search, average_attn_weights=False)
        _, average = self.multihead_attn(**search, average_attn_weights=True)
        tgt = tgt + self.dropout(found)
        tgt = tgt if self.pre_norm else self.norm2(tgt)
        x = self.norm3(tgt) if self.pre_norm else tgt
        tgt = tgt + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
        return (tgt if self.pre_norm else self.norm3(tgt)), weights, average


class Encoder(nn.Module):
    def __init__(self, layers: list[EncoderLayer], norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor) -> Tensor:
        for layer in self.layers:
            src = layer(src, pos, padding_mask)
        return src if self.norm is None else self.norm(src)


class Decoder(nn.Module):
    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, tgt: Tensor, memory: Tensor, query: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns answers `[L, C, B, D]`, weights `[L, B, heads, C, S]` and averages `[L, B, C, S]` of all layers."""
        answers, weights, averages = [], [], []
        for layer in self.layers:
            tgt, weight, average = layer(tgt, memory, query, padding_mask)
            answers.append(self.norm(tgt))
            weights.append(weight)
            averages.append(average)
        return torch.stack(answers), torch.stack(weights), torch.stack(averages)


class Transformer(nn.Module):
    """Encoder and decoder of `args.hidden_dim` channels."""

    def __init__(
        self, d_model: int, nhead: int, enc_layers: int, dec_layers: int, dim_feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        shape = (d_model, nhead, dim_feedforward, dropout, pre_norm)
        self.encoder = Encoder([EncoderLayer(*shape) for _ in range(enc_layers)], nn.LayerNorm(d_model) if pre_norm else None)
        self.decoder = Decoder([DecoderLayer(*shape) for _ in range(dec_layers)], nn.LayerNorm(d_model))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, src: Tensor, mask: Tensor, query: Tensor, pos: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`src` and `pos` `[B, D, h, w]`, `mask` `[B, h, w]`, `query` `[C, D]`.

        Returns answers `[L, B, C, D]`, memory `[B, D, h, w]`, weights `[L, B, heads, C, h*w]`, averages `[L, B, C, h*w]`.
        """
        padding_mask = mask.flatten(1)
        memory = self.encoder(src.flatten(2).permute(2, 0, 1), pos.flatten(2).permute(2, 0, 1), padding_mask)  # [S, B, D]
        query = query[:, None].repeat(1, len(src), 1)  # [C, B, D]
        answers, weights, averages = self.decoder(torch.zeros_like(query), memory, query, padding_mask)
        return answers.transpose(1, 2), memory.permute(1, 2, 0).view(src.shape), weights, averages
