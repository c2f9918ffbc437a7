"""Finding a class by its name or its index."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence

SHOWN = 5


def find_class(choice: str | int, classes: Sequence[str]) -> int:
    """Return the index of the class that `choice` names, or whose index it is, also as text; a name goes before an index.

    Raises:
        ValueError: there is no such class; the message names similar ones.
    """
    if isinstance(choice, str) and choice in classes:
        return classes.index(choice)
    count = len(classes)
    index = _as_index(choice)
    if index is not None and 0 <= index < count:
        return index
    if index is None:
        near = [classes.index(name) for name in difflib.get_close_matches(str(choice), classes, SHOWN, cutoff=0)]
    else:
        near = list(range(max(0, count - SHOWN), count) if index >= count else range(min(SHOWN, count)))
    names = ", ".join(f"{place} {classes[place]}" for place in near)
    raise ValueError(f"class {choice!r} does not exist: give an index from 0 to {count - 1}, or a name (near: {names})")


def _as_index(choice: str | int) -> int | None:
    if isinstance(choice, bool):
        return None
    try:
        return int(choice) if isinstance(choice, str) else operator.index(choice)
    except (ValueError, TypeError):
        return None
