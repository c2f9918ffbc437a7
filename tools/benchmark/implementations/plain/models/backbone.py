"""A torchvision ResNet up to its last feature map, and the positional encodings of that map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d  # computes x * scale + shift, unfused

LEARNED_CELLS = 50


class Backbone(nn.Module):
    """Images `[B, 3, H, W]` and their padding mask to features `[B, num_channels, h, w]` and the mask of the grid."""

    def __init__(self, name: str, dilation: bool, trained: bool) -> None:
        super().__init__()
        make = getattr(torchvision.models, name, None)
        if make is None or not name.startswith("resnet"):
            raise ValueError(f"--backbone {name}: the plain transcription has torchvision's ResNets only")
        net = make(weights=None, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation])
        for parameter_name, parameter in net.named_parameters():
            parameter.requires_grad_(trained and parameter_name.startswith(("layer2", "layer3", "layer4")))
        self.num_channels = net.fc.in_features
        self.body = IntermediateLayerGetter(net, {"layer4": "0"})

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)["0"]  # [B, num_channels, h, w]
        mask = F.interpolate(padding_mask[None].float(), size=features.shape[-2:])[0].bool()  # [B, h, w]
        return features, mask


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
        self.row_embed = nn.Embedding(LEARNED_CELLS, num_pos_feats)
        self.col_embed = nn.Embedding(LEARNED_CELLS, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, mask: Tensor) -> Tensor:
        """`mask` `[B, h, w]`; returns `[B, 2 * num_pos_feats, h, w]`."""
        b, h, w = mask.shape
        columns = self.col_embed(torch.arange(w, device=mask.device))[None].repeat(h, 1, 1)
        rows = self.row_embed(torch.arange(h, device=mask.device))[:, None].repeat(1, w, 1)
        return torch.cat((columns, rows), dim=-1).permute(2, 0, 1)[None].repeat(b, 1, 1, 1)
