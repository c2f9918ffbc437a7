"""How much of a step each part of the network takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

# INTR's names, which ICN keeps; a peer without one of them has no line for it.
PARTS = {
    "backbone": "backbone.0",
    "input projection": "input_proj",
    "encoder": "transformer.encoder",
    "decoder": "transformer.decoder",
    "head": "presence_vector",
}
BACKWARD, OPTIMIZER, REST = "backward", "optimizer", "rest"


def time_parts(network: nn.Module, run: Callable[[], float], synchronise: Callable[[], None]) -> dict[str, float]:
    """Seconds of each part in one `run`, which returns the seconds of all: forwards by `PARTS`, `BACKWARD`, `OPTIMIZER`.

    `REST` is what is left: the transfer, the normalisation, the position encoding, the loss, clipping, the statistics.
    """
    seconds: dict[str, float] = {}
    hooks: list[RemovableHandle] = []
    for label, name in PARTS.items():
        try:
            part = network.get_submodule(name)
        except AttributeError:
            continue
        start, stop = _clock(label, seconds, synchronise)
        hooks += [part.register_forward_pre_hook(start), part.register_forward_hook(stop)]
    start, stop = _clock(OPTIMIZER, seconds, synchronise)
    hooks += [register_optimizer_step_pre_hook(start), register_optimizer_step_post_hook(stop)]
    try:
        with _backward_clocked(*_clock(BACKWARD, seconds, synchronise)):
            total = run()
    finally:
        for hook in hooks:
            hook.remove()
    return {**seconds, REST: max(0.0, total - sum(seconds.values()))}


@contextlib.contextmanager
def _backward_clocked(start: Callable[..., None], stop: Callable[..., None]) -> Iterator[None]:
    backward = torch.Tensor.backward

    def clocked(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        start()
        backward(tensor, *args, **kwargs)
        stop()

    torch.Tensor.backward = clocked  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def _clock(
    label: str, seconds: dict[str, float], synchronise: Callable[[], None]
) -> tuple[Callable[..., None], Callable[..., None]]:
    started = [0.0]

    def start(*_: Any) -> None:
        synchronise()
        started[0] = time.perf_counter()

    def stop(*_: Any) -> None:
        synchronise()
        seconds[label] = seconds.get(label, 0.0) + time.perf_counter() - started[0]

    return start, stop
