"""Exceptions and messages that every command line shares."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from .printable import printable

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, the process's limit


class RunFailed(RuntimeError):
    """A run failed for a reason outside the command line (a full disk, a lost process), described in one line."""


class CacheError(RunFailed):
    """The cache of decoded pictures failed in the middle of a run; the message is one line."""


def message_of(error: BaseException) -> str:
    """Return an error's message, without the traceback of the DataLoader's worker that raised it."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    return text.strip()


def first_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its type where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean <prefix>x?`, the end of a message about an unknown word; nothing where no known one is near."""
    names = {name.lower(): name for name in known}
    word = word.lower()
    near = [name for name in names if word and name.startswith(word)][:3] or difflib.get_close_matches(word, names, 1)
    return f"; did you mean {' or '.join(prefix + names[name] for name in near)}?" if near else ""


class ImageError(ValueError):
    """An image file cannot be used; the message is one line and starts with the file's path.

    A DataLoader raises it again with the worker's whole traceback as its message: of that only the last line is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught ImageError in "):
            message = message.rstrip().rpartition("\n")[2].partition("ImageError: ")[2]
        super().__init__(printable(message))
