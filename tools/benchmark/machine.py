"""On what the numbers were measured, in words that hold for any copy of it: no host names, no paths."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Processor, GPU (or None), threads, versions."""
    cuda = device.type == "cuda"
    return {
        "cpu": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "threads": threads,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }


def describe(machine: dict[str, Any]) -> str:
    """One line."""
    gpu = f"{machine['gpu']} (CUDA {machine['cuda']}), " if machine["gpu"] else ""
    return (
        f"{gpu}{machine['cpu']} ({machine['capability']}), {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['system']}"
    )


class Disturbance:
    """How much of the processors' time went to other processes, or to other guests of the same host."""

    def __init__(self) -> None:
        self.start = (time.perf_counter(), _busy(), time.process_time())

    def share(self) -> float:
        """Since this was made, of all processors: 0 to 1; 0 where the kernel does not say."""
        start, busy, own = self.start
        spent = (time.perf_counter() - start) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (_busy() - busy - (time.process_time() - own)) / spent)) if busy else 0.0


def _busy() -> float:
    """Seconds that all processors have worked since the machine started; 0 where that is not known."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
