"""One line of progress with the time that is left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, secs = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """Count of `total` steps: a line that rewrites itself on a terminal, a line every 10 s elsewhere, none if done sooner.

    Args:
        total: number of steps.
        label: what is being done.
        quiet_for: seconds before the first line.
        stream: where to; stderr by default.
    """

    def __init__(self, total: int, label: str, quiet_for: float = 2.0, stream: TextIO | None = None) -> None:
        self.total, self.label, self.quiet_for = total, label, quiet_for
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.done = 0
        self.start = self.last = time.monotonic()
        self.shown = False

    def step(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` stands at the line's end."""
        self.done += count
        now = time.monotonic()
        elapsed = now - self.start
        if elapsed < self.quiet_for or now - self.last < (0.1 if self.live else 10.0):
            return
        self.last = now
        left = elapsed / self.done * (self.total - self.done)
        line = f"{self.label}: {self.done}/{self.total}  {clock(elapsed)} gone, {clock(left)} to go  {note}".rstrip()
        self.stream.write(f"\r\033[K{line}" if self.live else f"{line}\n")
        self.stream.flush()
        self.shown = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.shown and self.live:
            self.stream.write("\n")
