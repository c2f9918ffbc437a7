"""Instruments: description of the machine, CPU contention, peak memory, time by part, start-up of a command line."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from util.memory import read_field, resident

# INTR's names, which ICN keeps; a peer without one of them has no row for it.
PARTS = {
    "backbone": "backbone.0",
    "input projection": "input_proj",
    "encoder": "transformer.encoder",
    "decoder": "transformer.decoder",
    "head": "presence_vector",
}
BACKWARD, OPTIMIZER, REST = "backward", "optimizer", "rest"
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (("main.py", "--help"), ("main.py", "--no_such_flag"))


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Return processor, GPU (or None), threads and versions; no host names, no paths."""
    cpu = read_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()
    words = {"cpu": cpu, "capability": torch.backends.cpu.get_cpu_capability(), "gpu": None, "cuda": None}
    if device.type == "cuda":
        words |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    system = f"{platform.system()}, Python {platform.python_version()}"
    return {**words, "threads": threads, "torch": torch.__version__, "system": system}


def describe(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    gpu = f"{machine['gpu']} (CUDA {machine['cuda']}), " if machine["gpu"] else ""
    processor = f"{machine['cpu']} ({machine['capability']}), {machine['threads']} threads"
    return f"{gpu}{processor}, torch {machine['torch']}, {machine['system']}"


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
    """Peak memory above what the process holds when this is made: after imports, before a model.

    On CUDA: of torch's allocator. On Linux: resident memory. Elsewhere: the peak of the whole life of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = 0 if device.type == "cuda" else resident("VmRSS")

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _try_to_write("clear_refs", "5")  # resets the high-water mark

    def read(self) -> int:
        """Return bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, resident("VmHWM") - self.base)


def limit_memory(gib: float) -> None:
    """Make allocations beyond `gib` fail, and let the kernel end this process before any other when memory runs out."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    _try_to_write("oom_score_adj", "1000")


def _try_to_write(name: str, text: str) -> None:
    """Write to a file of /proc/self; a container may forbid it, and peaks are then those of the whole life of the process."""
    with contextlib.suppress(OSError):
        Path("/proc/self", name).write_text(text)


def time_parts(network: nn.Module, run: Callable[[], float], synchronise: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of each part in one `run`, which returns those of the whole step.

    The parts are the forward passes of `PARTS`, by hooks that are removed again, `BACKWARD`, `OPTIMIZER`, and `REST`: the
    transfer, the normalisation, the position encoding, the loss, clipping, the statistics. `synchronise` waits for the device.
    """
    seconds: dict[str, float] = {}
    started: dict[str, float] = {}

    def start(label: str) -> None:
        synchronise()
        started[label] = time.perf_counter()

    def stop(label: str) -> None:
        synchronise()
        seconds[label] = seconds.get(label, 0.0) + time.perf_counter() - started[label]

    def timed_backward(*args: Any, **kwargs: Any) -> None:
        start(BACKWARD)
        backward(*args, **kwargs)
        stop(BACKWARD)

    with contextlib.ExitStack() as hooks:
        for label, name in PARTS.items():
            with contextlib.suppress(AttributeError):
                part = network.get_submodule(name)
                hooks.callback(part.register_forward_pre_hook(lambda *_, label=label: start(label)).remove)  # type: ignore[misc]
                hooks.callback(part.register_forward_hook(lambda *_, label=label: stop(label)).remove)  # type: ignore[misc]
        hooks.callback(register_optimizer_step_pre_hook(lambda *_: start(OPTIMIZER)).remove)
        hooks.callback(register_optimizer_step_post_hook(lambda *_: stop(OPTIMIZER)).remove)
        backward = torch.Tensor.backward
        hooks.callback(setattr, torch.Tensor, "backward", backward)
        torch.Tensor.backward = timed_backward  # type: ignore[method-assign, assignment]
        total = run()
    return {**seconds, REST: max(0.0, total - sum(seconds.values()))}


def measure_startup(rounds: int, commands: Sequence[Sequence[str]] = COMMANDS) -> list[dict[str, Any]]:
    """Run command lines in turn; return their `command`, `exit_code`, `cpu_seconds` (user and system) and the `median`."""
    rows: list[dict[str, Any]] = [{"command": " ".join(words), "exit_code": 0, "cpu_seconds": []} for words in commands]
    for _ in range(rounds):
        for row, words in zip(rows, commands, strict=True):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            row["exit_code"] = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True).returncode
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            row["cpu_seconds"].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return [{**row, "median": statistics.median(row["cpu_seconds"])} for row in rows]
