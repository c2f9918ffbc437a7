"""Energy that a machine uses: processors by RAPL (Linux), GPUs by nvidia-smi; whatever runs on it counts."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
EVERY = 1.0  # seconds between two readings


class Energy:
    """A meter that reads while its context is entered.

    Attributes:
        joules: since then, of processors and GPUs together; None where neither says.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self.joules: float | None = None
        # Packages only: their parts (intel-rapl:0:1) are counted in them.
        self.counters = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        self.before: dict[Path, int] = {}
        self.smi = shutil.which("nvidia-smi")
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._read_on, daemon=True)

    def __enter__(self) -> Energy:
        self.last = time.monotonic()
        self._read()
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.finished.set()
        self.thread.join()
        self._read()

    def _read_on(self) -> None:
        while not self.finished.wait(EVERY):
            self._read()

    def _read(self) -> None:
        """Add what was used since the last reading."""
        now = time.monotonic()
        used = [joules for folder in self.counters if (joules := self._package(folder)) is not None]
        if (watts := self._gpu_watts()) is not None:
            used.append(watts * (now - self.last))
        if used:
            self.joules = (self.joules or 0.0) + sum(used)
        self.last = now

    def _package(self, folder: Path) -> float | None:
        """Return the joules of a processor since the last reading; its counter starts again at its maximum."""
        with suppress(OSError, ValueError):  # no permission
            count = int((folder / "energy_uj").read_text())
            before, self.before[folder] = self.before.get(folder, count), count
            wrapped = int((folder / "max_energy_range_uj").read_text()) if count < before else 0
            return (count - before + wrapped) / 1e6
        return None

    def _gpu_watts(self) -> float | None:
        """Return what all GPUs draw now."""
        if self.smi is None:
            return None
        command = [self.smi, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
            return sum(map(float, answer.split()))
        return None
