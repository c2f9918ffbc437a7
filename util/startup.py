"""The first moments of a program: closed streams, a current folder that is gone, and Ctrl-C while its modules are imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def start() -> None:
    """Prepare the process, before anything large is imported; `util.cli.launch` handles Ctrl-C later.

    A closed stdin, stdout or stderr is opened on /dev/null: else the next file that is opened, such as a checkpoint, would have
    its number, and receive what libraries print. Without a current folder libraries such as MKL end the process in words of
    their own: one line, and code 2.
    """
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout, sys.stderr = (stream or open(handle, "w") for handle, stream in ((1, sys.stdout), (2, sys.stderr)))  # noqa: SIM115
    try:
        os.getcwd()
    except OSError as error:
        print(f"error: the current folder cannot be used ({error.strerror}): change to another (cd)", file=sys.stderr)
        raise SystemExit(2) from None
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\ninterrupted\n")
    os._exit(128 + number)
