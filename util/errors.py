"""Exceptions and messages that every command line shares."""

from __future__ import annotations

from .printable import printable


class RunFailed(RuntimeError):
    """A run failed for a reason outside the command line (a full disk, a lost process), described in one line."""


def first_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its type where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class ImageError(ValueError):
    """An image file cannot be used; the message is one line and starts with the file's path.

    A DataLoader raises it again with the worker's whole traceback as its message: of that only the last line is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught ImageError in "):
            message = message.rstrip().rpartition("\n")[2].partition("ImageError: ")[2]
        super().__init__(printable(message))
