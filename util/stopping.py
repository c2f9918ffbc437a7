"""Ctrl-C and SIGTERM as a request: the run stops at its next step boundary, when its state is whole."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A run that was asked to stop did so; `signal_name` asked, `exit_code` is the shell's for it (128 + signal)."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal_name = signal.Signals(number).name
        self.exit_code = 128 + number


class StopRequest:
    """While it is entered, SIGINT and SIGTERM are noted in `number`; a second Ctrl-C interrupts at once.

    Signals are Python's to handle in the main thread only: entered in another one it notes nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        # Not print(): a signal may come in the middle of one.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step (Ctrl-C: at once)\n".encode())
