"""Text for a terminal: names from files and checkpoints may hold line ends, escape codes, or bytes that are no UTF-8."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SHOWN = 5  # names in a list
HARMLESS = "\u00a0\u3000\u200c\u200d"  # spaces, and the joiners of Persian words and of emoji


def printable(text: str, keep: str = "") -> str:
    """Return a text with backslash escapes in place of all that does not print, but for the characters in `keep`."""
    if text.isprintable():
        return text
    keep += HARMLESS
    return "".join(letter if letter.isprintable() or letter in keep else escape(letter) for letter in text)


def short_name(name: str, longest: int = 80) -> str:
    """Return a name for a terminal: printable, and cut where it is longer than `longest` letters."""
    return printable(name if len(name) <= longest else name[: longest - 1] + "…")


def escape(letter: str) -> str:
    """Return the backslash escape of a letter."""
    code = ord(letter)
    # A byte of a file name that is no UTF-8 is a surrogate in Python.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else letter.encode("unicode_escape").decode()


def quoted(names: Sequence[str]) -> str:
    """Return the first five names, printable, cut if they are longer than a file's and in quotes, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{short_name(name, 256)}'" for name in names[:SHOWN]) + rest


class OutputLost(OSError):
    """Stdout or stderr cannot be written to; the message is one line."""


class PrintableStream:
    """A text stream (stdout, stderr) that writes escapes in place of what does not print, or not in its encoding."""

    def __init__(self, stream: Any) -> None:
        self.unescaped = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with self._writing():
            self.unescaped.write(printable(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        with self._writing():
            self.unescaped.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise OutputLost where the stream cannot be written to, then it writes to nowhere: Python flushes it at exit."""
        try:
            yield
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.unescaped.fileno())
            closed = isinstance(error, BrokenPipeError)
            why = "the reader of the output closed it" if closed else f"the output cannot be written ({error.strerror})"
            raise OutputLost(why) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def make_output_printable() -> None:
    """Replace stdout and stderr by streams that can print any text, and no escape codes."""
    os.environ.setdefault("NO_COLOR", "1")  # newer versions of Python colour tracebacks and help by escape codes
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))
