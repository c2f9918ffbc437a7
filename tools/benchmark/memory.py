"""The most memory a process held, of the computer or of its GPU; and how much it may hold."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
REFS = Path("/proc/self/clear_refs")  # writing 5 sets the high-water mark back to what is held now
OOM = Path("/proc/self/oom_score_adj")


class PeakMemory:
    """The high-water mark above `base`, which is what the process holds when this is made: after imports, before a model.

    On CUDA it counts what torch's allocator gave out. On Linux without CUDA it counts resident memory; elsewhere the mark
    cannot be set back, so that `read` gives that of the whole life of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = 0 if device.type == "cuda" else _resident("VmRSS")

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _write(REFS, "5")

    def read(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _resident("VmHWM") - self.base)


def limit_memory(gib: float) -> None:
    """Make allocations beyond `gib` fail, and let the kernel end this process before any other when memory runs out."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    _write(OOM, "1000")


def available_gib() -> float | None:
    """Memory that can be had without swapping, in GiB; None where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:")), None)


def _resident(name: str) -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        return  # a container that forbids it: numbers are then those of the whole life of the process
