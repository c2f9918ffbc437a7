"""Numbers on a command line: the type of a flag, with the values that are allowed."""

from __future__ import annotations

import argparse
import math
import reprlib
from typing import Any

LARGEST = 10**9  # of whole numbers, unless a flag says otherwise: larger ones are typing errors, and overflow


class Number:
    """A number within bounds, as `type` of a flag (argparse).

    Args:
        kind: int or float.
        low, high: bounds, included.
        above, below: exclude `low`, `high`.
    """

    def __init__(
        self, kind: type[int] | type[float], low: float = 0, high: float | None = None, above: bool = False, below: bool = False
    ) -> None:
        self.kind, self.low, self.above, self.below = kind, low, above, below
        self.high: float = high if high is not None else LARGEST if kind is int else math.inf

    def __str__(self) -> str:
        name = "a whole number" if self.kind is int else "a number"
        low = f"above {self.low:,}" if self.above else f"of at least {self.low:,}"
        if self.high == math.inf:
            return f"{name} {low}"
        return f"{name} {low} and {'below' if self.below else 'at most'} {self.high:,}"

    def __call__(self, text: str) -> Any:
        """Convert a word of a command line; an error that says what is allowed."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if not self.allows(value):
            raise argparse.ArgumentTypeError(f"{reprlib.repr(text)} must be {self}")
        return value

    def allows(self, value: Any) -> bool:
        """Return whether a value is of this kind and within the bounds."""
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)):
            return False
        inside = self.low <= value <= self.high and abs(value) < math.inf
        return inside and not (self.above and value == self.low) and not (self.below and value == self.high)


COUNT, WHOLE = Number(int, 1), Number(int)
AMOUNT, SHARE, PART = Number(float), Number(float, 0, 1), Number(float, 0, 1, below=True)
SEED, WORKERS = Number(int, 0, 2**63, below=True), Number(int, 0, 1024)
