"""The architecture written down plainly, with INTR's interface: what the engine is measured against.

It does what INTR does at the cost at which INTR does it: single precision, contiguous memory, frozen batch norms as an
affine map of their own, `nn.MultiheadAttention` with its weights in every decoder layer, and a second cross-attention for
their average. Nothing outside the benchmark imports it.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d  # computes x * scale + shift, unfused


class Backbone(nn.Module):
    """Images `[B, 3, H, W]` and their padding mask to features `[B, num_channels, h, w]` and the mask of the grid."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        make = getattr(torchvision.models, args.backbone, None)
        if make is None or not args.backbone.startswith("resnet"):
            raise ValueError(f"--backbone {args.backbone}: the plain transcription has torchvision's ResNets only")
        net = make(weights=None, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, args.dilation])
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(args.lr_backbone > 0 and name.startswith(("layer2", "layer3", "layer4")))
        self.num_channels = net.fc.in_features
        self.body = IntermediateLayerGetter(net, {"layer4": "0"})

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)["0"]  # [B, num_channels, h, w]
        return features, F.interpolate(padding_mask[None].float(), size=features.shape[-2:])[0].bool()


class SinePosition(nn.Module):
    """Sines and cosines of the row and the column, counted over valid cells and normalised to 2 pi."""

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.num_pos_feats = num_pos_feats

    def forward(self, mask: Tensor) -> Tensor:
        """`mask` `[B, h, w]`; returns `[B, 2 * num_pos_feats, h, w]`."""
        channel = torch.arange(self.num_pos_feats, dtype=torch.float32, device=mask.device)
        divisor = 10000 ** (2 * (channel // 2) / self.num_pos_feats)
        encoded = []
        for axis in (1, 2):
            position = (~mask).cumsum(axis, dtype=torch.float32)
            last = position.select(axis, -1).unsqueeze(axis)
            phase = (position / (last + 1e-6) * 2 * math.pi)[..., None] / divisor  # [B, h, w, num_pos_feats]
            encoded.append(torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), dim=4).flatten(3))
        return torch.cat(encoded, dim=3).permute(0, 3, 1, 2)


class LearnedPosition(nn.Module):
    """One learned vector per column and one per row."""

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.row_embed, self.col_embed = (nn.Embedding(50, num_pos_feats) for _ in range(2))  # at most 50 cells
        for embedding in (self.row_embed, self.col_embed):
            nn.init.uniform_(embedding.weight)

    def forward(self, mask: Tensor) -> Tensor:
        """`mask` `[B, h, w]`; returns `[B, 2 * num_pos_feats, h, w]`."""
        b, h, w = mask.shape
        columns = self.col_embed(torch.arange(w, device=mask.device))[None].repeat(h, 1, 1)
        rows = self.row_embed(torch.arange(h, device=mask.device))[:, None].repeat(1, w, 1)
        return torch.cat((columns, rows), dim=-1).permute(2, 0, 1)[None].repeat(b, 1, 1, 1)


class EncoderLayer(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        d = args.hidden_dim
        self.self_attn = nn.MultiheadAttention(d, args.nheads, dropout=args.dropout)
        self.linear1, self.linear2 = nn.Linear(d, args.dim_feedforward), nn.Linear(args.dim_feedforward, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout, self.pre_norm = nn.Dropout(args.dropout), args.pre_norm

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor) -> Tensor:
        """`src` and `pos` `[S, B, D]`, `padding_mask` `[B, S]`."""
        x = self.norm1(src) if self.pre_norm else src
        src = src + self.dropout(self.self_attn(x + pos, x + pos, x, key_padding_mask=padding_mask)[0])
        x = src = src if self.pre_norm else self.norm1(src)
        x = self.norm2(x) if self.pre_norm else x
        src = src + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
        return src if self.pre_norm else self.norm2(src)


class DecoderLayer(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        d = args.hidden_dim
        self.self_attn = nn.MultiheadAttention(d, args.nheads, dropout=args.dropout)
        self.multihead_attn = nn.MultiheadAttention(d, args.nheads, dropout=args.dropout)
        self.linear1, self.linear2 = nn.Linear(d, args.dim_feedforward), nn.Linear(args.dim_feedforward, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout, self.pre_norm = nn.Dropout(args.dropout), args.pre_norm

    def forward(self, tgt: Tensor, memory: Tensor, query: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`tgt` and `query` `[C, B, D]`, `memory` `[S, B, D]`.

        Returns the target, the weights `[B, heads, C, S]` and their mean over the heads `[B, C, S]`.
        """
        x = self.norm1(tgt) if self.pre_norm else tgt
        tgt = tgt + self.dropout(self.self_attn(x + query, x + query, x)[0])
        tgt = tgt if self.pre_norm else self.norm1(tgt)
        x = self.norm2(tgt) if self.pre_norm else tgt
        inputs = {"query": x + query, "key": memory, "value": memory, "key_padding_mask": padding_mask}
        update, weights = self.multihead_attn(**inputs, average_attn_weights=False)
        _, average = self.multihead_attn(**inputs, average_attn_weights=True)
        tgt = tgt + self.dropout(update)
        tgt = tgt if self.pre_norm else self.norm2(tgt)
        x = self.norm3(tgt) if self.pre_norm else tgt
        tgt = tgt + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))
        return (tgt if self.pre_norm else self.norm3(tgt)), weights, average


class Encoder(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(args) for _ in range(args.enc_layers))
        self.norm = nn.LayerNorm(args.hidden_dim) if args.pre_norm else None

    def forward(self, src: Tensor, pos: Tensor, padding_mask: Tensor) -> Tensor:
        for layer in self.layers:
            src = layer(src, pos, padding_mask)
        return src if self.norm is None else self.norm(src)


class Decoder(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(args) for _ in range(args.dec_layers))
        self.norm = nn.LayerNorm(args.hidden_dim)

    def forward(self, tgt: Tensor, memory: Tensor, query: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states `[L, C, B, D]`, weights `[L, B, heads, C, S]` and averages `[L, B, C, S]` of all layers."""
        outputs = []
        for layer in self.layers:
            tgt, weights, averages = layer(tgt, memory, query, padding_mask)
            outputs.append((self.norm(tgt), weights, averages))
        states, weights, averages = map(torch.stack, zip(*outputs, strict=True))
        return states, weights, averages


class Transformer(nn.Module):
    """Encoder and decoder of `args.hidden_dim` channels."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(args), Decoder(args)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, src: Tensor, mask: Tensor, query: Tensor, pos: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`src` and `pos` `[B, D, h, w]`, `mask` `[B, h, w]`, `query` `[C, D]`.

        Returns states `[L, B, C, D]`, memory `[B, D, h, w]`, weights `[L, B, heads, C, h*w]`, averages `[L, B, C, h*w]`.
        """
        padding_mask = mask.flatten(1)
        memory = self.encoder(src.flatten(2).permute(2, 0, 1), pos.flatten(2).permute(2, 0, 1), padding_mask)  # [S, B, D]
        query = query[:, None].repeat(1, len(src), 1)  # [C, B, D]
        states, weights, averages = self.decoder(torch.zeros_like(query), memory, query, padding_mask)
        return states.transpose(1, 2), memory.permute(1, 2, 0).view(src.shape), weights, averages


class PlainClassifier(nn.Module):
    """Backbone, encoder, decoder over one query per class, and one linear score of each query's state."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        backbone = Backbone(args)
        position = (SinePosition if args.position_embedding == "sine" else LearnedPosition)(args.hidden_dim // 2)
        self.transformer = Transformer(args)
        self.presence_vector = nn.Linear(args.hidden_dim, 1)
        self.query_embed = nn.Embedding(args.num_queries, args.hidden_dim)
        self.input_proj = nn.Conv2d(backbone.num_channels, args.hidden_dim, kernel_size=1)
        self.backbone = nn.ModuleList([backbone, position])

    def forward(self, samples: Any) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
        """`samples` has `tensors` `[B, 3, H, W]`, normalised, and `mask` `[B, H, W]`, True on padding.

        Returns `{"query_logits": [B, C]}`, memory `[B, D, h, w]`, states `[L, B, C, D]`, weights `[L, B, heads, C, h*w]`
        and their averages `[L, B, C, h*w]`.
        """
        features, mask = self.backbone[0](samples.tensors, samples.mask)
        inputs = (self.input_proj(features), mask, self.query_embed.weight, self.backbone[1](mask))
        states, memory, weights, averages = self.transformer(*inputs)
        logits = self.presence_vector(states[-1]).squeeze(-1)  # [B, C]
        return {"query_logits": logits}, memory, states, weights, averages


def build_model(args: argparse.Namespace) -> tuple[PlainClassifier, nn.Module]:
    """Return the model and its criterion. ValueError for a backbone that is no torchvision ResNet with frozen batch norms."""
    return PlainClassifier(args), nn.CrossEntropyLoss()
