"""Child processes: they end with their parent, and at its failure."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let this process receive a signal when its parent ends, however that ends, even while this one is stopped or blocked.

    On Linux the kernel does so; elsewhere a thread looks every second. Not for children of a thread that ends earlier.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if parent is not None and not parent.is_alive():  # it ended before the call
            os.kill(os.getpid(), number)
    else:
        threading.Thread(target=_watch, args=(os.getppid(), number), daemon=True).start()


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), number)


def kill_children() -> None:
    """Kill the daemonic children of this process, such as those that load images, and wait for their end.

    For the end of a program: multiprocessing would send SIGTERM, which they ignore, and wait.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()


@contextmanager
def ending_children() -> Iterator[None]:
    """Kill the daemonic children when the context is left by an exception, a signal to stop included."""
    try:
        yield
    except BaseException:
        kill_children()
        raise
