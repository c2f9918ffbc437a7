"""Copy of the state of a training between two steps, which is written while the training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .memory import available

MEMORY_SHARE = 0.5  # of the memory that is left, at most


@torch.inference_mode(False)
def snapshot(state: Any) -> Any:
    """Copy nested dicts, lists and tuples, and their tensors to the CPU; one tensor under several names stays one.

    Returns:
        The copy, of which nothing changes with `state`; None where it would take more than half of the memory that is left, or
        cannot be allocated, which is said once.
    """
    size = sum(tensor.nbytes for tensor in _tensors(state))
    free = available()
    if free is None or size <= MEMORY_SHARE * free:
        try:
            return _copied(state, {})
        except (MemoryError, RuntimeError):  # of anything but memory: whoever uses `state` itself meets the same error
            pass
    _say_memory_is_short(size)
    return None


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)


def _copied(content: Any, copies: dict[Any, Tensor]) -> Any:
    """Copy `content`; `copies` has the tensors that are copied already."""
    if isinstance(content, Tensor):
        key = content.data_ptr(), content.device, content.dtype, content.shape, content.stride()
        if key not in copies:
            copies[key] = content.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(content, dict):
        result = copy(content)  # a state dict has attributes, too
        result.update((key, _copied(value, copies)) for key, value in content.items())
        return result
    if isinstance(content, list | tuple):
        return type(content)(_copied(part, copies) for part in content)
    return content


@cache
def _say_memory_is_short(size: int) -> None:
    print(f"memory is short for a copy of the state ({size / 1e6:.0f} MB): the training waits while a checkpoint is written")
