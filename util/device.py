"""Selection of the device that a process computes on."""

from __future__ import annotations

import sys

import torch

from .launcher import ProcessInfo

ALLOWED = "choose auto, cuda, cuda:<index>, mps or cpu"


def select_device(name: str, process: ProcessInfo | None = None, float64: bool = False) -> torch.device:
    """Return the device of that name; `cuda` falls back to the CPU with a warning where there is none.

    Each of several processes takes a CUDA device of its own: the only visible one, else that of its local rank.

    Args:
        name: `auto` (the first that is there of cuda, mps and cpu), `cuda`, `cuda:<index>`, `mps` or `cpu`.
        process: this one among all of the run.
        float64: whether numbers of 64 bits are computed there, which mps does not have.

    Raises:
        ValueError: there is no such device.
    """
    several = process is not None and process.size > 1
    if name == "auto":
        name = _first_device(mps=not several and not float64)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is not a device: {ALLOWED}") from None
    if device.type not in ("cuda", "mps", "cpu"):
        raise ValueError(f"--device {name!r} is not supported: {ALLOWED}")
    if device.type == "cpu":
        return device
    if device.type == "mps":
        return _mps_device(device, several, float64)
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


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory layout of convolutions: channels_last, for which mps has no kernels."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def _first_device(mps: bool) -> str:
    """Return the name of the first device that is there; mps only counts where it can be used."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if mps and torch.backends.mps.is_available() else "cpu"


def _mps_device(device: torch.device, several: bool, float64: bool) -> torch.device:
    """Return the GPU of an Apple computer, with a line that says what is known of it."""
    if not torch.backends.mps.is_available():
        raise ValueError("--device mps: there is no GPU of Apple here, or torch cannot use it: choose auto, cuda or cpu")
    if several:
        raise ValueError("--device mps is for one process: several of them need cuda or cpu")
    if float64:
        raise ValueError("--device mps has no numbers of 64 bits, which are computed with here: choose auto or cpu")
    if device.index:
        raise ValueError(f"--device {device}: there is one MPS device, mps")
    print("note: ICN was never tried on mps; please report what does not work, and choose the device cpu", file=sys.stderr)
    return torch.device("mps")
