"""Which images a network takes, found by trial passes on the meta device: without arithmetic, memory or random numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.func import functional_call

from models.architecture import ParameterError
from models.loading import first_line

STEP = 32  # pixels between the sides that are tried


def takes(network: nn.Module, height: int, width: int, batch: int = 1) -> bool:
    """Return whether a network takes images of that size, in the mode (training, evaluation) that it is in."""
    try:
        run_on_meta(network, height, width, batch)
    except Exception:  # whatever a network of timm raises where shapes do not fit
        return False
    return True


@torch.no_grad()
def run_on_meta(network: nn.Module, height: int, width: int, batch: int = 1) -> None:
    """Run a network on the meta device; raises what it raises."""
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    functional_call(network, tensors, torch.empty(batch, 3, height, width, device="meta"))


def check_squares(network: nn.Module, sides: Iterable[int], parameter: str) -> None:
    """Raise a ParameterError, of `parameter`, unless a network takes squares of each of these sides in evaluation mode."""
    training = network.training
    try:
        for side in sides:
            run_on_meta(network.eval(), side, side)
    except ParameterError as error:
        raise ParameterError(parameter, str(error)) from None
    finally:
        network.train(training)


def explain_failure(
    network: nn.Module, height: int, width: int, batch: int, sides: set[int], error: Exception, parameter: str
) -> Exception:
    """Return the error to raise where a network failed: a ParameterError that says which images it takes, or `error` itself.

    Args:
        network: maps images `[B, 3, H, W]` to features.
        height, width, batch: of the images on which it failed.
        sides: of squares that it may take, in pixels; those near `height` are tried, too.
        error: raised by it.
        parameter: that decides the size of the images.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or takes(network, height, width, batch):
        return error  # the size is not the reason
    if batch == 1 and takes(network, height, width, batch=2):
        problem = f"a batch norm of the backbone cannot be trained on one image of {height} x {width} pixels"
        return ParameterError("batch_size", f"{problem}: take 2 or more (backbone_norm frozen takes one)")
    nearest = height // STEP * STEP
    tried = sorted(sides | {nearest + STEP * offset for offset in range(-2, 4)})
    fitting = [str(side) for side in tried if side >= STEP and takes(network, side, side, batch=2)]
    advice = f"squares that it takes (square): {', '.join(fitting)}" if fitting else f"{first_line(error)}; choose another one"
    return ParameterError(parameter, f"the backbone takes no images of {height} x {width} pixels: {advice}")
