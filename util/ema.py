"""The moving average of the weights: timm's, with the warm-up of its decay, saved and restored as a plain state dict."""

from __future__ import annotations

from collections.abc import Mapping

from timm.utils import ModelEmaV3
from torch import Tensor, nn


def make_ema(model: nn.Module, decay: float) -> ModelEmaV3:
    """The average of `model`, on its device; `.module` is a model in evaluation mode, `.module.state_dict()` is what is saved.

    After optimizer step n, counted from 1, call `ema.update(model, step=n)`: parameters and floating-point buffers move by
    `average += (1 - d) * (value - average)`, whole-number buffers are copied. d is 0 at n = 1 (the average forgets the weights
    before training), then `min(decay, 1 - n ** (-2/3))`, so that a short run has an average of its later steps, too. It depends
    on n alone: a resumed run needs the average and the step, nothing else.

    Args:
        model: the raw module (not wrapped by DDP, not compiled), where and in which memory layout it is trained.
        decay: the largest d.

    Raises:
        ValueError: `decay` is no decay.
    """
    if not 0 < decay < 1:
        raise ValueError(f"--ema {decay} must be above 0 and below 1 (0.999 averages over about 1000 steps)")
    ema = ModelEmaV3(model, decay=decay, use_warmup=True)
    ema.module.requires_grad_(False)
    return ema


def restore_ema(ema: ModelEmaV3, model: nn.Module, state: Mapping[str, Tensor] | None) -> None:
    """Go on with a saved average; without one (a run that had none so far) it starts from the weights of `model`.

    Raises:
        ValueError: the average is of another model.
    """
    if not state:
        ema.set(model)
        return
    try:
        ema.module.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise ValueError(f"the averaged weights of the checkpoint do not fit ({reason}): start anew with --finetune") from None
