"""The classifier and `build_model(args)`, as INTR offers it."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor, nn

from .backbone import Backbone, LearnedPosition, SinePosition
from .transformer import Transformer


class PlainClassifier(nn.Module):
    """Backbone, encoder, decoder over one query per class, and one linear score of what each query found."""

    def __init__(self, backbone: Backbone, position: nn.Module, transformer: Transformer, num_queries: int, hidden_dim: int):
        super().__init__()
        self.transformer = transformer
        self.presence_vector = nn.Linear(hidden_dim, 1)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Conv2d(backbone.num_channels, hidden_dim, kernel_size=1)
        self.backbone = nn.ModuleList([backbone, position])

    def forward(self, samples: Any) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
        """`samples` has `tensors` `[B, 3, H, W]`, normalised, and `mask` `[B, H, W]`, True on padding.

        Returns `{"query_logits": [B, C]}`, memory `[B, D, h, w]`, answers `[L, B, C, D]`, weights `[L, B, heads, C, h*w]`
        and their averages `[L, B, C, h*w]`.
        """
        features, mask = self.backbone[0](samples.tensors, samples.mask)
        answers, memory, weights, averages = self.transformer(
            self.input_proj(features), mask, self.query_embed.weight, self.backbone[1](mask)
        )
        logits = self.presence_vector(answers[-1]).squeeze(-1)  # [B, C]
        return {"query_logits": logits}, memory, answers, weights, averages


def build_model(args: argparse.Namespace) -> tuple[PlainClassifier, nn.Module]:
    """The model and its criterion. ValueError for a backbone that is no torchvision ResNet with frozen batch norms."""
    backbone = Backbone(args.backbone, args.dilation, args.lr_backbone > 0)
    position = (SinePosition if args.position_embedding == "sine" else LearnedPosition)(args.hidden_dim // 2)
    transformer = Transformer(
        args.hidden_dim, args.nheads, args.enc_layers, args.dec_layers, args.dim_feedforward, args.dropout, args.pre_norm
    )
    return PlainClassifier(backbone, position, transformer, args.num_queries, args.hidden_dim), nn.CrossEntropyLoss()
