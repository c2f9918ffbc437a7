"""A thread that writes: in order, one thing at a time, and with its errors heard of."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from util.writer_thread import WriterThread

PATIENCE = 60.0  # seconds; only what hangs needs them


def test_the_program_goes_on_and_the_next_call_waits() -> None:
    thread, released, done = WriterThread(), threading.Event(), list[int]()

    def first() -> None:
        assert released.wait(PATIENCE)
        done.append(1)

    thread.start(first)
    thread.check()
    assert not done  # and yet the program is here
    threading.Timer(0.05, released.set).start()
    thread.start(lambda: done.append(2))
    assert done[0] == 1
    thread.wait()
    assert done == [1, 2]


@pytest.mark.parametrize("how", ["check", "wait", "start"])
def test_an_error_is_raised_once(how: str) -> None:
    thread = WriterThread()

    def fail() -> None:
        raise OSError("full")

    thread.start(fail)
    thread.join()
    calls: dict[str, Callable[[], None]] = {
        "check": thread.check, "wait": thread.wait, "start": lambda: thread.start(lambda: pytest.fail("begun")),
    }  # fmt: skip
    with pytest.raises(OSError, match="full"):
        calls[how]()
    thread.wait()
    thread.check()


def test_without_a_thread_the_call_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    thread, done = WriterThread(), []
    thread.start(lambda: done.append(1))
    assert done == [1]
    thread.wait()


def test_signals_are_left_to_the_main_thread() -> None:
    blocked = set[int]()
    thread = WriterThread()
    thread.start(lambda: blocked.update(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    thread.wait()
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD} <= blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_fork_waits_for_the_call_in_progress() -> None:
    """A worker of a loader, forked in the middle of a write, would have a copy of the half of the file that is in a buffer."""
    thread, released, done = WriterThread(), threading.Event(), list[int]()

    def write() -> None:
        assert released.wait(PATIENCE)
        done.append(1)

    thread.start(write)
    threading.Timer(0.05, released.set).start()
    child = os.fork()
    if not child:
        os._exit(len(done))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
