"""Dropout that is fast on a CPU too, where torch's random mask costs more than the matrix products around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # 16 random bits per value, so that on a CPU p is rounded to a multiple of 1/65536


def dropout(x: Tensor, p: float) -> Tensor:
    """Set each value to 0 with probability p, else divide it by 1 - p (Srivastava et al., JMLR 2014, section 4).

    Args:
        x: any shape, floating point.
        p: at least 0, below 1.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # there the mask is drawn in the kernel that uses it
        return F.dropout(x, p)
    dropped = min(round(p * LEVELS), LEVELS - 1)
    if dropped == 0:
        return x
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits; torch's own generator
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
    return (x * kept).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """torch.nn.Dropout by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:  # the name of torch's own
        return dropout(input, self.p) if self.training and self.p > 0 else input
