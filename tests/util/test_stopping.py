"""Signals to stop, and their priority."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from util.launcher import ProcessInfo
from util.stopping import SIGNALS, Stopped, StopRequest

ROOT = Path(__file__).parents[2]


def test_the_second_ctrl_c_may_be_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with StopRequest(ProcessInfo(1, 2, 1)) as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGTERM)
        assert request.number == signal.SIGUSR2  # the highest priority
        now[0] = 3.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_interrupts_a_single_process_at_once(capfd: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(ProcessInfo()) as request:
        signal.raise_signal(signal.SIGINT)
        assert (
            request.number == signal.SIGINT and capfd.readouterr().err == "\nSIGINT: stopping after this step (Ctrl-C: at once)\n"
        )
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_is_answered_at_once_where_it_may_be(capfd: pytest.CaptureFixture) -> None:
    for number in SIGNALS[1:]:
        with StopRequest(ProcessInfo()) as request:
            with pytest.raises(Stopped) as stopped, request.reacting(request.stop):
                signal.raise_signal(number)
            assert stopped.value.exit_code == 128 + number and request.number == number
            with pytest.raises(Stopped), request.reacting(request.stop):  # it was received before
                raise AssertionError
            with request.reacting(None):
                signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == ""  # nothing is put off


def test_a_second_signal_does_not_interrupt_the_answer() -> None:
    done = []

    def save() -> None:
        signal.raise_signal(signal.SIGTERM)
        done.append(request.number)

    with StopRequest(ProcessInfo()) as request, request.reacting(save):
        signal.raise_signal(signal.SIGHUP)
    assert done == [signal.SIGTERM]


def test_nohup_keeps_its_word() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(ProcessInfo()) as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.number is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_no_error() -> None:
    """The terminal's other end is closed: the kernel sends SIGHUP, and writing to it fails from then on."""
    script = """
import sys, time
from util.launcher import ProcessInfo
from util.stopping import StopRequest
with StopRequest(ProcessInfo()) as request:
    print("ready", flush=True)
    while not request.number:
        time.sleep(0.01)
    print("stopping", flush=True)
raise SystemExit(request.number)
"""
    main, terminal = pty.openpty()
    code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); exec({script!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    assert b"ready" in os.read(main, 100)
    os.close(main)
    assert process.wait(60) == signal.SIGHUP


def test_outside_the_main_thread_nothing_is_recorded() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with StopRequest(ProcessInfo()) as request:
            seen.append((request.number, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, True)] and signal.getsignal(signal.SIGTERM) is before


def test_the_exit_code_is_the_shells() -> None:
    stop = Stopped(signal.SIGTERM, "stopped")
    assert (stop.exit_code, stop.signal_name, str(stop)) == (143, "SIGTERM", "stopped")
