"""Flags in files: `@file` on a command line stands for the words of that file."""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache

LARGEST = 2**20  # bytes
# A line up to its comment: as in a shell, `#` starts one at the beginning of a word.
CODE = r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|(?<=\S)\#|[^\\'"#])*"""


def expand_files(words: Iterable[str], place: str = "", files: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Replace each `@file` by the words of the file, where `@file` is relative to the folder of the file that contains it.

    Args:
        words: of a command line, or of a line of the last of `files`.
        place: `file:line: `, where the words come from; empty for the command line.
        files: the files that are being read, each named in the one before.

    Yields:
        A word, and the place that it comes from.

    Raises:
        ValueError: a file cannot be read, is no text, has an open quotation mark or includes itself; names file and line.
    """
    for word in words:
        if not word.startswith("@"):
            yield word, place
            continue
        path = os.path.join(os.path.dirname(files[-1]) if files else "", os.path.expanduser(word[1:]))
        if any(os.path.exists(path) and os.path.samefile(path, file) for file in files):
            raise ValueError(f"{place}{word} includes itself: take it out")
        for number, line in enumerate(re.split(r"\r\n|\r|\n", _text(word, path, place)), 1):
            yield from expand_files(_split(line, f"{path}:{number}"), f"{path}:{number}: ", (*files, path))


def _split(line: str, place: str) -> list[str]:
    """Split a line into words as a shell does; a backslash at its end, which continues it in a shell, changes nothing."""
    line = line.rstrip().removesuffix("\\")
    code = re.match(CODE, line)[0]  # type: ignore[index]  # it matches nothing, too
    try:
        return shlex.split(code if line[len(code) :].startswith("#") else line)
    except ValueError as error:  # "No closing quotation", "No escaped character"
        raise ValueError(f"{place}: {str(error).lower()} in {line.strip()!r}") from None


def _text(word: str, path: str, place: str) -> str:
    """Return the text of a file of flags; ValueError if it is none."""
    try:
        content = (_read if os.path.isfile(path) else _read_once)(path)
    except OSError as error:
        hint = f"a value that begins with @ is given as --flag={word}"
        raise ValueError(f"{place}{word}: the file of flags {path!r} cannot be read ({error.strerror}); {hint}") from None
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Windows PowerShell's `>`
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: this is no UTF-8 text: give a text file of flags") from None
    if len(content) > LARGEST or "\0" in text:
        raise ValueError(f"{place}{word}: {path} is no text file of flags (at most {LARGEST >> 20} MiB)")
    return text


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(LARGEST + 1)


_read_once = cache(_read)  # a pipe has its words only once, and a command line may be parsed again
