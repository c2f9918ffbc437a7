"""Memory that a process holds or held, as the kernel counts it."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def read_field(path: Path, name: str) -> str:
    """Return the first value of `name: value` in a file of /proc; an empty string where there is none."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.partition(":")[0].strip() == name:
                return line.partition(":")[2].strip()
    return ""


def resident(name: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (the peak) in bytes; elsewhere than on Linux the peak for both."""
    if value := read_field(Path("/proc/self/status"), name):
        return int(value.split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
