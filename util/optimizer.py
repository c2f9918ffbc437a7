"""AdamW as DETR sets it up."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def make_optimizer(model: nn.Module, lr: float, lr_backbone: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trained, the backbone in a group of its own (empty when it is frozen, as in INTR's files).

    Each group keeps its first rate as `base_lr`.
    """
    rest: dict[str, Any] = {"params": [], "lr": lr, "base_lr": lr}
    backbone: dict[str, Any] = {"params": [], "lr": lr_backbone, "base_lr": lr_backbone}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if name.startswith("backbone.") else rest)["params"].append(parameter)
    return torch.optim.AdamW([rest, backbone], weight_decay=weight_decay)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state (ICN's or INTR's); rates and weight decay stay those that `optimizer` was made with.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    kept = [{key: group[key] for key in ("lr", "base_lr", "weight_decay")} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the optimizer state of the checkpoint does not fit ({error}): start anew with --finetune") from None
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values)
