"""Selection of the device that a process computes on."""

from __future__ import annotations

import sys

import torch

from .launcher import ProcessInfo


def select_device(name: str, process: ProcessInfo | None = None) -> torch.device:
    """Return the device of that name; `cuda` falls back to the CPU with a warning where there is none.

    Each of several processes takes a CUDA device of its own: the only visible one, else that of its local rank. ValueError
    without such a device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is not a device: choose cuda, cuda:<index> or cpu") from None
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"--device {name!r} is not supported: choose cuda, cuda:<index> or cpu")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        print("warning: no CUDA device is available, running on the CPU (the device cpu hides this warning)", file=sys.stderr)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if process and process.size > 1:
        if device.index is not None:
            raise ValueError(f"--device {name}: each of {process.size} processes takes a GPU of its own; give --device cuda")
        index = process.local_rank if count > 1 else 0
        if index >= count:
            raise ValueError(
                f"process {index + 1} of this machine has only {count} GPUs: start as many processes as there are GPUs, "
                "or give --device cpu"
            )
        device = torch.device("cuda", index)
    if device.index is not None and device.index >= count:
        raise ValueError(f"--device {name}: there are {count} CUDA devices, numbered from 0")
    torch.cuda.set_device(device)  # else pinned memory would open a context on the first one
    return device
