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
    """Progress of `total` steps on stderr: a line that is overwritten on a terminal, else one every 10 s.

    Args:
        label: starts the line.
        work: of all steps, in any unit, where they take unequal times; the remaining time is derived from it. None: `total`.
    """

    def __init__(self, total: int, label: str, work: float | None = None) -> None:
        self.total, self.label, self.done = total, label, 0
        self.work, self.worked, self.counted, self.note = total if work is None else work, 0.0, 0.0, ""
        self.terminal = sys.stderr.isatty()
        self.start = self.last = time.monotonic()
        self.shown = False

    def step(self, count: int = 1, note: str | None = None, work: float | None = None) -> None:
        """Count further steps, 0 to say that work goes on; `note` ends this line and the next, `work` is that of the steps."""
        self.done += count
        self.worked += count if work is None else work
        self.note = self.note if note is None else note
        now = time.monotonic()
        elapsed = now - self.start
        if count or work:
            self.counted = elapsed
        if elapsed < SILENT_SECONDS or now - self.last < (0.1 if self.terminal else 10.0):
            return
        self.last, self.shown = now, True
        left = f", {clock(remaining)} left" if (remaining := self._remaining(elapsed)) is not None else ""
        stream = getattr(sys.stderr, "unescaped", sys.stderr)  # on a terminal the line begins with an escape code
        line = f"{self.label}: {self.done}/{self.total}  {clock(elapsed)} elapsed{left}  {self.note}".rstrip()
        stream.write(f"\r\033[K{printable(line)}" if self.terminal else f"{printable(line)}\n")
        stream.flush()

    def _remaining(self, elapsed: float) -> float | None:
        """Return the remaining seconds, None where they are not known: no step is done, or the next one takes longer than all."""
        if not self.worked:
            return None
        remaining = self.counted / self.worked * max(0.0, self.work - self.worked) - (elapsed - self.counted)
        return remaining if remaining >= 0 else 0.0 if self.done >= self.total else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown and self.terminal:
            sys.stderr.write("\n")
