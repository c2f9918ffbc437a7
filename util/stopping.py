"""Signals to stop (Ctrl-C, SIGTERM, SIGUSR2), recorded so that a run stops at its next step boundary, with a whole state."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from .launcher import ProcessInfo

DUPLICATE_SECONDS = 2.0  # a launcher forwards a Ctrl-C that its processes received already
SIGNALS = (0, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # by priority; 0: none; after SIGUSR2 a job is requeued


class Stopped(Exception):
    """A run stopped after a signal, `signal_name`; `exit_code` is the shell's for it (128 + number)."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal_name = signal.Signals(number).name
        self.exit_code = 128 + number


class StopRequest:
    """Context that records SIGINT, SIGTERM and SIGUSR2 (a cluster's notice) in `number`, by the priority of `SIGNALS`.

    A second Ctrl-C raises KeyboardInterrupt at once; one of several processes ignores it for two seconds, in which it may be the
    launcher's duplicate. Outside the main thread, where Python handles no signals, nothing is recorded.

    Args:
        process: rank and number of processes; rank 0 prints.
    """

    def __init__(self, process: ProcessInfo) -> None:
        self.number: int | None = None
        self._process, self._received = process, 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._record) for number in SIGNALS[1:]}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            if self._process.size > 1 and time.monotonic() - self._received < DUPLICATE_SECONDS:
                return
            raise KeyboardInterrupt
        self.number, self._received = max(self.number or 0, number, key=SIGNALS.index), time.monotonic()
        if self._process.rank == 0:  # not print(): a signal may arrive in the middle of one
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step (Ctrl-C: at once)\n".encode())
