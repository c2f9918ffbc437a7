"""A copy of a model for evaluation: the same numbers, faster."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from models.attention import MultiheadAttention
from models.folding import bake_norms
from models.icn import ICN


def for_inference(model: ICN, dtype: torch.dtype = torch.float32) -> ICN:
    """Copy a model for evaluation: batch norms folded into the convolutions, channels_last, no parameter to train.

    Args:
        model: is not changed.
        dtype: of the weights of convolutions and matrix products. With bfloat16 or float16 call the copy under autocast of
            that type, which then has nothing to cast; norms and queries stay in float32.
    """
    copy = deepcopy(model).eval()
    bake_norms(copy.backbone[0].body)  # type: ignore[arg-type]
    copy.requires_grad_(False).to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        for module in copy.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(dtype)
            elif isinstance(module, MultiheadAttention):
                module.in_proj_weight.data = module.in_proj_weight.data.to(dtype)
                module.in_proj_bias.data = module.in_proj_bias.data.to(dtype)
    return copy
