"""Signals to stop (Ctrl-C, SIGHUP, SIGTERM, SIGUSR2): what they interrupt, and what they are recorded for."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from .launcher import ProcessInfo

DUPLICATE_SECONDS = 2.0  # a launcher forwards a Ctrl-C that its processes received already
# By priority; 0: none; SIGHUP: the terminal was closed; after SIGUSR2 a job is requeued.
SIGNALS = (0, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)


class Stopped(BaseException):
    """A run stopped after a signal, `signal_name`; `exit_code` is the shell's for it (128 + number).

    As KeyboardInterrupt it is no Exception: it may come anywhere, and nothing that handles errors may swallow it.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal_name = signal.Signals(number).name
        self.exit_code = 128 + number


class StopRequest:
    """Context that records signals to stop in `number`, by the priority of `SIGNALS`, and reacts to them as `reacting` says.

    A second Ctrl-C raises KeyboardInterrupt at once (`interrupted`); one of several processes ignores it for two seconds, in
    which it may be the launcher's duplicate. A SIGHUP that nohup ignores stays ignored. Outside the main thread, where Python
    handles no signals, nothing is recorded.

    Args:
        process: rank and number of processes; rank 0 prints.
        message: of the Stopped that `stop` raises.
    """

    def __init__(self, process: ProcessInfo, message: str = "") -> None:
        self.number: int | None = None
        self.interrupted = False
        self._process, self._message, self._received = process, message, 0.0
        self._reaction: Callable[[], object] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
            self._previous = {number: signal.signal(number, self._record) for number in SIGNALS[1:] if number not in ignored}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def reacting(self, reaction: Callable[[], object] | None) -> Iterator[None]:
        """Call `reaction` at a signal while the context is entered, and at once if there was one; None only records."""
        previous, self._reaction = self._reaction, reaction
        try:
            if self.number and reaction:
                reaction()
            yield
        finally:
            self._reaction = previous

    def stop(self) -> NoReturn:
        """Raise Stopped for the signal that was received."""
        assert self.number is not None
        by = "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"
        raise Stopped(self.number, self._message or by)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            if self._process.size > 1 and time.monotonic() - self._received < DUPLICATE_SECONDS:
                return
            self.interrupted = True
            raise KeyboardInterrupt
        is_first = self.number is None
        self.number, self._received = max(self.number or 0, number, key=SIGNALS.index), time.monotonic()
        if number == signal.SIGHUP:
            _leave_closed_terminal()
        reaction, self._reaction = self._reaction, None  # once: a further signal does not interrupt it
        if reaction:
            reaction()
        elif is_first and self._process.rank == 0:  # not print(): a signal may arrive in the middle of one
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}: stopping after this step (Ctrl-C: at once)\n".encode())


def _leave_closed_terminal() -> None:
    """Let stdout and stderr write to nowhere if they are a terminal that is gone: every line would be an OSError."""
    for handle in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(handle).st_mode) and not os.isatty(handle):
                os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
