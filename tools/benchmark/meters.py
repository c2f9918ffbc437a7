"""Instruments: description of the machine, CPU contention, peak memory, time by part of the network."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")  # writing 5 resets the high-water mark of resident memory
OOM_SCORE = Path("/proc/self/oom_score_adj")
# INTR's names, which ICN keeps; a peer without one of them has no row for it.
PARTS = {
    "backbone": "backbone.0",
    "input projection": "input_proj",
    "encoder": "transformer.encoder",
    "decoder": "transformer.decoder",
    "head": "presence_vector",
}
BACKWARD, OPTIMIZER, REST = "backward", "optimizer", "rest"


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Return processor, GPU (or None), threads and versions; no host names, no paths."""
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


def describe(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    gpu = f"{machine['gpu']} (CUDA {machine['cuda']}), " if machine["gpu"] else ""
    return (
        f"{gpu}{machine['cpu']} ({machine['capability']}), {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['system']}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class Contention:
    """Share of the processors' time that went to other processes, or to other guests of the host, since this was made."""

    def __init__(self) -> None:
        self.start = (time.perf_counter(), _busy_seconds(), time.process_time())

    def share(self) -> float:
        """Return a number in [0, 1]; 0 where the kernel does not count."""
        start, busy, own = self.start
        elapsed = (time.perf_counter() - start) * (os.cpu_count() or 1)
        others = _busy_seconds() - busy - (time.process_time() - own)
        return min(1.0, max(0.0, others / elapsed)) if busy else 0.0


def _busy_seconds() -> float:
    """Return the seconds that all processors have worked since the machine started; 0 where that is not known."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class PeakMemory:
    """High-water mark of memory above `base`, what the process holds when this is made: after imports, before a model.

    On CUDA it counts what torch's allocator gave out. On Linux without CUDA it counts resident memory; elsewhere the mark
    cannot be reset, so that `read` gives that of the whole life of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = 0 if device.type == "cuda" else _resident("VmRSS")

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _try_to_write(CLEAR_REFS, "5")

    def read(self) -> int:
        """Return bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _resident("VmHWM") - self.base)


def limit_memory(gib: float) -> None:
    """Make allocations beyond `gib` fail, and let the kernel end this process before any other when memory runs out."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    _try_to_write(OOM_SCORE, "1000")


def available_gib() -> float | None:
    """Return the memory available without swapping, in GiB; None where the kernel does not say."""
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


def _try_to_write(path: Path, text: str) -> None:
    """Write to a file of /proc; a container may forbid it, and peaks are then those of the whole life of the process."""
    with contextlib.suppress(OSError):
        path.write_text(text)


def time_parts(network: nn.Module, run: Callable[[], float], synchronise: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of each part in one `run`: forwards by `PARTS`, `BACKWARD`, `OPTIMIZER` and `REST`.

    Args:
        network: forward hooks are put on its parts, and removed.
        run: one step; returns the seconds of the whole.
        synchronise: waits for the device.

    `REST` is what is left: the transfer, the normalisation, the position encoding, the loss, clipping, the statistics.
    """
    seconds: dict[str, float] = {}
    with contextlib.ExitStack() as hooks:
        for label, name in PARTS.items():
            with contextlib.suppress(AttributeError):
                part = network.get_submodule(name)
                start, stop = _clock(label, seconds, synchronise)
                hooks.callback(part.register_forward_pre_hook(start).remove)
                hooks.callback(part.register_forward_hook(stop).remove)
        start, stop = _clock(OPTIMIZER, seconds, synchronise)
        hooks.callback(register_optimizer_step_pre_hook(start).remove)
        hooks.callback(register_optimizer_step_post_hook(stop).remove)
        hooks.enter_context(_timed_backward(*_clock(BACKWARD, seconds, synchronise)))
        total = run()
    return {**seconds, REST: max(0.0, total - sum(seconds.values()))}


@contextlib.contextmanager
def _timed_backward(start: Callable[..., None], stop: Callable[..., None]) -> Iterator[None]:
    backward = torch.Tensor.backward

    def timed(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        start()
        backward(tensor, *args, **kwargs)
        stop()

    torch.Tensor.backward = timed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def _clock(
    label: str, seconds: dict[str, float], synchronise: Callable[[], None]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return two hooks, for the start and the end of a part, that add the time in between to `seconds[label]`."""
    started = [0.0]

    def start(*_: Any) -> None:
        synchronise()
        started[0] = time.perf_counter()

    def stop(*_: Any) -> None:
        synchronise()
        seconds[label] = seconds.get(label, 0.0) + time.perf_counter() - started[0]

    return start, stop
