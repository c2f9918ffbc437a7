"""Text for a terminal: names from files and checkpoints may hold line ends, escape codes, or bytes that are no UTF-8."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

SHOWN = 5  # names in a list
HARMLESS = "\u00a0\u3000\u200c\u200d"  # spaces, and the joiners of Persian words and of emoji


def printable(text: str, keep: str = "") -> str:
    """Return a text with backslash escapes in place of all that does not print, but for the characters in `keep`."""
    if text.isprintable():
        return text
    keep += HARMLESS
    return "".join(letter if letter.isprintable() or letter in keep else escape(letter) for letter in text)


def escape(letter: str) -> str:
    """Return the backslash escape of a letter."""
    code = ord(letter)
    # A byte of a file name that is no UTF-8 is a surrogate in Python.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else letter.encode("unicode_escape").decode()


def quoted(names: Sequence[str]) -> str:
    """Return the first five names, printable and in quotes, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:SHOWN]) + rest


class PrintableStream:
    """A text stream (stdout, stderr) that writes escapes in place of what does not print, or not in its encoding."""

    def __init__(self, stream: Any) -> None:
        self.unescaped = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self.unescaped.write(printable(text, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def make_output_printable() -> None:
    """Replace stdout and stderr by streams that can print any text, and no escape codes."""
    os.environ.setdefault("NO_COLOR", "1")  # newer versions of Python colour tracebacks and help by escape codes
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))
