"""Exponential moving average of the weights (EMA): timm's, with the warm-up of its decay, saved as a plain state dict."""

from __future__ import annotations

from collections.abc import Mapping

from timm.utils import ModelEmaV3
from torch import Tensor, nn


def make_ema(model: nn.Module, decay: float) -> ModelEmaV3:
    """Build the average of `model`, on its device; `.module` is a model in evaluation mode, and its state dict is what is saved.

    After optimizer step n, counted from 1, call `ema.update(model, step=n)`: parameters and floating-point buffers are updated by
    `average += (1 - d) * (value - average)`, integer buffers are copied. d is 0 at n = 1 (the weights before training do not
    count), then `min(decay, 1 - n ** (-2/3))`, so that a short run has an average of its later steps, too. It depends on n alone:
    a resumed run needs only the average and the step.

    `model` is not wrapped by DDP, not compiled, and in its final memory layout; `decay` is the largest d, a ValueError unless it
    is above 0 and below 1.
    """
    if not 0 < decay < 1:
        raise ValueError(f"--ema {decay} must be above 0 and below 1 (0.999 averages over about 1000 steps)")
    ema = ModelEmaV3(model, decay=decay, use_warmup=True)
    ema.module.requires_grad_(False)
    return ema


def restore_ema(ema: ModelEmaV3, model: nn.Module, state: Mapping[str, Tensor] | None) -> None:
    """Load a saved average (ValueError for that of another model); without one (no EMA so far) start from `model`'s weights."""
    if not state:
        ema.set(model)
        return
    try:
        if broken := [name for name, value in state.items() if not value.isfinite().all()]:
            raise RuntimeError(f"{broken[0]} holds values that are not finite")
        ema.module.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[-1].strip()  # torch names the first tensors in the last line
        raise ValueError(f"the averaged weights of the checkpoint do not fit ({reason}): start anew with --finetune") from None
