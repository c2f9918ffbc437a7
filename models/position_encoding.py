"""Two-dimensional positional encodings of the feature grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.architecture import ParameterError

LEARNED_CELLS = 50


class SinePositionEncoding(nn.Module):
    """Sines and cosines of the row and the column, normalised to 2 pi (Parmar et al. 2018; DETR, appendix A.4).

    Half of the `hidden_dim` channels encode the row, half the column, sine and cosine alternating. Rows and columns are counted
    over the valid cells, so that the encoding of an image does not depend on its padding.
    """

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        if hidden_dim % 4:
            raise ParameterError("hidden_dim", f"{hidden_dim} must be a multiple of 4: sine and cosine of row and column")
        self.channels = hidden_dim // 2  # of each axis

    def forward(self, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the encoding `[B or 1, D, h, w]` of the grid of `features` `[B, D', h, w]` with `padding_mask` `[B, h, w]`."""
        grid = features.new_ones(1, *features.shape[-2:], dtype=torch.bool)
        valid = grid if padding_mask is None else ~padding_mask  # [B or 1, h, w]
        channel = torch.arange(self.channels, dtype=torch.float32, device=features.device)
        wave_length = 10000.0 ** (2 * (channel // 2) / self.channels)  # [D/2]
        halves = []
        for axis in (1, 2):
            count = valid.cumsum(axis, dtype=torch.float32)  # [B or 1, h, w]
            count = count / (count.narrow(axis, count.shape[axis] - 1, 1) + 1e-6) * (2 * math.pi)
            phase = count[..., None] / wave_length  # [B, h, w, D/2]
            halves.append(torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), dim=-1).flatten(-2))
        return torch.cat(halves, dim=-1).permute(0, 3, 1, 2)  # [B, D, h, w]


class LearnedPositionEncoding(nn.Module):
    """One learned vector per column and one per row, concatenated (DETR); grids up to 50 x 50 cells."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        if hidden_dim % 2:
            raise ParameterError("hidden_dim", f"{hidden_dim} must be even: half of the channels encode the column, half the row")
        self.row_embed = nn.Embedding(LEARNED_CELLS, hidden_dim // 2)
        self.col_embed = nn.Embedding(LEARNED_CELLS, hidden_dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the encoding `[1, D, h, w]` of the grid of `features` `[B, D', h, w]`; ParameterError beyond 50 x 50 cells."""
        h, w = features.shape[-2:]
        if max(h, w) > LEARNED_CELLS:
            message = f"learned has {LEARNED_CELLS} x {LEARNED_CELLS} cells, the feature map {h} x {w}"
            raise ParameterError("position_embedding", f"{message}: use smaller images or sine")
        columns = self.col_embed.weight[:w].T[:, None, :].expand(-1, h, -1)  # [D/2, h, w]
        rows = self.row_embed.weight[:h].T[:, :, None].expand(-1, -1, w)  # [D/2, h, w]
        return torch.cat((columns, rows))[None]  # [1, D, h, w]


def build_position_encoding(kind: str, hidden_dim: int) -> nn.Module:
    """Build the encoding `sine` or `learned`; ParameterError for anything else."""
    if kind not in ("sine", "learned"):
        raise ParameterError("position_embedding", f"{kind!r} is not known: choose sine or learned")
    return SinePositionEncoding(hidden_dim) if kind == "sine" else LearnedPositionEncoding(hidden_dim)
