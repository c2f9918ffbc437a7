"""Progress line with the elapsed and the remaining time."""

from __future__ import annotations

import sys
import time

from .printable import printable

SILENT_SECONDS = 2.0  # no line for work that is done sooner


def clock(seconds: float) -> str:
    """Format seconds as `m:ss` or `h:mm:ss`."""
    minutes, secs = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """Progress of `total` steps on stderr: a line that is overwritten on a terminal, else one every 10 s; `label` starts it."""

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done = total, label, 0
        self.terminal = sys.stderr.isatty()
        self.start = self.last = time.monotonic()
        self.shown = False

    def step(self, count: int = 1, note: str = "") -> None:
        """Count further steps; `note` is the end of the line."""
        self.done += count
        now = time.monotonic()
        elapsed = now - self.start
        if elapsed < SILENT_SECONDS or now - self.last < (0.1 if self.terminal else 10.0):
            return
        self.last, self.shown = now, True
        left = elapsed / self.done * (self.total - self.done)
        stream = getattr(sys.stderr, "unescaped", sys.stderr)  # on a terminal the line begins with an escape code
        line = f"{self.label}: {self.done}/{self.total}  {clock(elapsed)} elapsed, {clock(left)} left  {note}".rstrip()
        stream.write(f"\r\033[K{printable(line)}" if self.terminal else f"{printable(line)}\n")
        stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown and self.terminal:
            sys.stderr.write("\n")
