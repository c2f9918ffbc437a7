"""Signals to stop, and their priority."""

from __future__ import annotations

import signal
import threading

import pytest

from util.launcher import ProcessInfo
from util.stopping import Stopped, StopRequest


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
