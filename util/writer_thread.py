"""A thread that writes files while the program goes on: one after the other, and none of its errors is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class WriterThread:
    """Thread that does one call at a time; an error of the call is raised where the next one is started, checked or waited for.

    A fork waits for the call in progress: the child would inherit half a file in a buffer, and locks that nobody releases.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, call: Callable[[], object]) -> None:
        """Wait for the call in progress, raise its error if it had one, and begin the next one."""
        self.wait()
        self._thread = _Thread(target=self._run, args=(call,), name="writer")
        try:
            self._thread.start()
        except RuntimeError:  # the system has no more threads
            self._thread = None
            call()

    def check(self) -> None:
        """Raise the error of a call that has ended, once; do not wait."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def join(self) -> None:
        """Wait for the call in progress; keep its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Wait for the call in progress; raise its error."""
        self.join()
        self.check()

    def _run(self, call: Callable[[], object]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they interrupt what the main thread waits for
        try:
            call()
        except BaseException as error:
            self._error = error


class _Thread(threading.Thread):
    """Thread for which a fork waits."""


def _wait_for_all() -> None:
    for thread in threading.enumerate():
        if isinstance(thread, _Thread) and thread is not threading.current_thread():
            thread.join()


os.register_at_fork(before=_wait_for_all)
