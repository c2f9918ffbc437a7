"""Exceptions and messages that every command line shares."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """A run failed for a reason outside the command line (a full disk, a lost process), described in one line."""


def first_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its type where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
