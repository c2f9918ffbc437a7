"""Memory that a process holds or held, as the kernel counts it, and memory that it keeps."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

# Limit and use of a container's memory, in the two versions of control groups.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep memory that is freed for the next tensors (mallopt of glibc; without effect elsewhere).

    By default large blocks return to the kernel at once, and each page of the next tensor is cleared and mapped anew: a training
    step on a CPU spends up to a fifth of its time so. The peak stays; only after it less memory is given back.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def read_field(path: Path, name: str) -> str:
    """Return the first value of `name: value` in a file of /proc; an empty string where there is none."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.partition(":")[0].strip() == name:
                return line.partition(":")[2].strip()
    return ""


def available() -> int | None:
    """Return the memory in bytes that is free without swapping, of the machine or the container; None where nobody says."""
    value = read_field(Path("/proc/meminfo"), "MemAvailable")
    free = [int(value.split()[0]) * 1024] if value else []
    for limit, used in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            content = dict(line.split() for line in Path(limit).with_name("memory.stat").read_text().splitlines())
            reclaimable = int(content.get("inactive_file", 0))
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()) + reclaimable)
    return max(0, min(free)) if free else None


def resident(name: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (the peak) in bytes; elsewhere than on Linux the peak for both."""
    if value := read_field(Path("/proc/self/status"), name):
        return int(value.split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
