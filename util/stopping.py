"""Ctrl-C, SIGTERM and SIGUSR2 as a request: the run stops at its next step boundary, when its state is whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from util.launcher import ALONE, ProcessInfo

ECHO = 2.0  # seconds
SIGNALS = (0, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # 0: nobody asked; the last one asks to be started again


class Stopped(Exception):
    """A run that was asked to stop did so; `signal_name` asked, `exit_code` is the shell's for it (128 + signal)."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal_name = signal.Signals(number).name
        self.exit_code = 128 + number


class StopRequest:
    """While it is entered, SIGINT, SIGTERM and SIGUSR2 (a cluster's notice) are noted in `number`.

    Of several the one that asks for most is kept. A second Ctrl-C interrupts at once. Signals are Python's to handle in the
    main thread only: entered in another one it notes nothing.

    Args:
        place: of this process among the others. A launcher hands Ctrl-C on to processes that have got it already: of several
            processes each takes a second one for an echo for the first two seconds.
    """

    def __init__(self, place: ProcessInfo = ALONE) -> None:
        self.number: int | None = None
        self.place, self.since = place, 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS[1:]:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            if self.place.size > 1 and time.monotonic() - self.since < ECHO:
                return
            raise KeyboardInterrupt
        self.number, self.since = max(self.number or 0, number, key=SIGNALS.index), time.monotonic()
        if self.place.rank > 0:
            return
        # Not print(): a signal may come in the middle of one.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step (Ctrl-C: at once)\n".encode())
